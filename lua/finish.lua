-- Ends the run: nothing is handed out and no batch is formed any more. What is held may still be submitted, and what is left stays as it is.
-- An enqueue, a feeder that begins, a retry that starts a task over, and a recovery open the run again.
-- Transition: none of a task
-- KEYS: state
-- ARGV: now, gate (3)
-- Returns: `before waiting running ready`: 1 if the run was finished before, then how many tasks are left: that wait, that run, and that are ready or in the unsealed batch
-- Errors: gate's, RECOVERING, CONFIG (the run is of kind `admission`)
-- Bound: constant
-- Flags: allow-oom
-- @include gate

local FIELDS = gate_and({ 'open_size', 'supply', 'admission' })

return gated(FIELDS, function()
  refuse_while_recovering()
  Run.refuse_admission()
  local before = state.finished and 1 or 0
  if before == 0 then
    set('finished', now)
    Markers.arm_trainer(true)
    event('finish', '-')
  end
  if state.supply == 'more' then set('supply', 'interrupted') end -- a run that is opened again has another feeder
  Markers.arm_finished()
  return table.concat({ before, redis.call('ZCARD', PENDING) + redis.call('ZCARD', DELAYED),
    redis.call('ZCARD', RUNNING), redis.call('ZCARD', READY) + num('open_size') }, ' ')
end)
