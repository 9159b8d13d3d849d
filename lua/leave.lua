-- Ends a session: its attempts are released without penalty.
-- Transition: held -> open; running -> pending or delayed if no other slot of the task is held or done
-- KEYS: state
-- ARGV: now, session, limit
-- Returns: 1 if the session is gone; 0 if it held more than limit attempts: the caller calls again
-- Errors: NORUN, SCHEMA, BADARG
-- Bound: limit attempts
-- Flags: allow-oom
-- @include sweep

return run(function()
  load_state()
  local id, limit = ARGV[2], int_arg(3, 'limit', 1, 1000)
  if not redis.call('HGET', CALLS, id) then return 1 end
  local held = redis.call('ZRANGE', SESSION .. id, 0, limit)
  local n = math.min(limit, #held)
  load_attempts(held)
  for i = 1, n do
    local t, k, s, holds = holder(held[i])
    if holds then release_attempt(t, k, s) end
    zdel(SESSION .. id, held[i])
  end
  local gone = #held <= limit
  if gone then forget_session(id, 'left') end
  flush()
  return gone and 1 or 0
end)
