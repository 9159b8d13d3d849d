-- Forgets what gateways keep of rollouts: their records, their places among the ended ones, and the events of their attempts.
-- Transition: none
-- KEYS: state
-- ARGV: now, tasks...
-- Returns: how many of them had a record
-- Errors: NORUN, SCHEMA, BADARG
-- Bound: the tasks given, at most 1000, and the attempts with events of each
-- Flags: allow-oom
-- @include gateway_records
-- @include gateway_ends

return run(function()
  load_state()
  local n, had = #ARGV - 1, 0
  if n < 1 or n > 1000 then fail('BADARG', 'argument', 'tasks', 'given', n, 'low', 1, 'high', 1000) end
  flush()
  for i = 2, n + 1 do
    local task = ARGV[i]
    local attempts = key('gateway:attempts:' .. task)
    for _, attempt in ipairs(redis.call('ZRANGE', attempts, 0, -1)) do
      redis.call('UNLINK', key('gateway:events:' .. task .. ':' .. attempt))
    end
    redis.call('UNLINK', attempts)
    redis.call('ZREM', ENDS, task)
    had = had + redis.call('HDEL', ROLLOUTS, task)
  end
  return had
end)
