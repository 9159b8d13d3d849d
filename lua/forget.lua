-- Takes tasks out of the run, and frees their records at once. Tasks that are not dead or rejected yet are cancelled before. Nobody waits any more for
-- those that a recovery named to be enqueued again.
-- Transition: pending, delayed, running, ready or batched (not sealed) -> rejected; dead, rejected -> forgotten
-- KEYS: state
-- ARGV: now, gate (3), tasks...
-- Returns: a word for each task that the bound allows: `forgotten`, or the state it is in, or `freed`, `freed_untrained`, or `unknown`
-- Errors: gate's, RECOVERING, BADARG
-- Bound: the first of the tasks given (at most 1000) that have at most 1024 slots together, one at least
-- Flags: allow-oom
-- @include gate
-- @include endings
-- @include awaited
-- @include freeing

local FIELDS = gate_and({ 'open_size', 'awaited', 'finished_ids' })

return gated(FIELDS, function()
  refuse_while_recovering()
  local ids, answer = task_args(FIRST_ARG), {}
  local dropped = Awaited.drop(ids)
  if next(dropped) then Markers.arm_trainer(true) end
  for i = 1, #ids do
    local t, reason = tasks[ids[i]], 'cancelled'
    if t and is_unsealed(t) then
      finish_task(t, 'J', 'cancelled', 'cancelled')
      bump('total_cancelled', 1)
    elseif t and t.state ~= 'B' then
      reason = redis.call('HGET', REASONS, t.id) or ''
    end
    if t and t.state ~= 'B' then
      free_untrained(t, reason)
      answer[i] = 'forgotten'
    elseif dropped[ids[i]] then
      answer[i] = 'forgotten'
    else
      answer[i] = not t and freed_word(ids[i]) or state_word(t)
    end
  end
  return table.concat(answer, ' ')
end)
