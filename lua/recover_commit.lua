-- Ends a recovery, after every task was swept: the counters by (I1) and (I2), and the run goes on.
-- Transition: none of a task
-- KEYS: state
-- ARGV: now, gate (3)
-- Returns: `accepted running capacity`
-- Errors: gate's, EARLY (no recovery is under way)
-- Bound: the steps that were undone
-- Flags: allow-oom
-- @include gate
-- @include counters

return gated({ 'recover_steps', 'bytes_from', 'tasks_from', 'open_size' }, function()
  if state.recovering == '' then fail('EARLY', 'recovering', 'no') end
  local version = num('version')
  for step = version, num('recover_steps') do
    unlink(key('batch:' .. int_text(step)))
    hdel(BATCHES, int_text(step))
  end
  set('bytes_from', math.min(num('bytes_from'), version))
  set('bytes_at', 0)
  set('tasks_from', math.min(num('tasks_from'), version))
  set('recover_steps', 0)
  set('recovering', '')
  set('recheck', 0)
  set('open_size', 0)
  set('running', redis.call('ZCARD', RUNNING))
  set('accepted', version * batch_size() + redis.call('ZCARD', READY))
  arm_workers()
  if redis.call('ZCARD', OPEN) > 0 then arm_for_open_slot() end
  event('recovered', state.version .. ' ' .. state.epoch)
  return table.concat({ state.accepted, state.running, int_text(capacity()) }, ' ')
end)
