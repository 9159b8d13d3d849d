-- Ends a recovery, after every task was swept: recomputes the counters by (I1) and (I2), and lets the run go on.
-- Transition: none of a task
-- KEYS: state
-- ARGV: now, gate (3)
-- Returns: `accepted running capacity`
-- Errors: gate's, EARLY (no recovery is under way)
-- Bound: the number of batches that are kept; with max_concurrent_samples also that of sessions
-- Flags: allow-oom
-- @include gate
-- @include counters
-- @include admission_owners
-- @include lineage

local FIELDS = gate_and({
  'recover_limit', 'recover_open', 'recover_lineage', 'known_from', 'order_seq', 'bytes_from', 'tasks_from',
  'open_size',
})

-- Deletes the batches of steps that the surviving history has not consumed, and the unsealed batch. The sweep has moved their tasks.
local function drop_batches(limit)
  unlink(key('batch:' .. int_text(num('recover_open'))))
  for _, step in ipairs(redis.call('HKEYS', BATCHES)) do
    if tonumber(step) >= limit then
      unlink(key('batch:' .. step))
      hdel(BATCHES, step)
    end
  end
end

return gated(FIELDS, function()
  if state.recovering == '' then fail('EARLY', 'recovering', 'no') end
  local version, limit = num('version'), num('recover_limit')
  drop_batches(limit)
  -- No number of the checkpoint is given again. If the sweep dropped the tasks that the checkpoint does not know, the server's lineage is the
  -- checkpoint's from now on. It is not before, because a recovery that is begun again must still tell the two histories apart.
  set('order_seq', math.max(num('order_seq'), num('known_from')))
  if (state.recover_lineage or '') ~= '' then
    mark_epoch(state.epoch:match('%w+$'), num('known_from'), state.recover_lineage)
    set('recover_lineage', '')
  end
  set('bytes_from', math.min(num('bytes_from'), limit))
  set('bytes_at', 0)
  set('tasks_from', math.min(num('tasks_from'), limit))
  set('recover_limit', '')
  set('recovering', '')
  set('recheck', 0)
  set('open_size', 0)
  set('running', redis.call('ZCARD', RUNNING) + admission_running())
  if Samples.most() then set('held', Samples.count()) end
  set('accepted', version * batch_size() + redis.call('ZCARD', READY))
  Markers.arm_anyway()
  event('recovered', state.version .. ' ' .. state.epoch)
  return table.concat({ state.accepted, state.running, int_text(capacity()) }, ' ')
end)
