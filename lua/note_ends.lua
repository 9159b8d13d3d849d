-- Writes down that tasks have ended, each once, in the order of the calls, so that a reader with a cursor misses none.
-- Transition: none
-- KEYS: state
-- ARGV: now, tasks...
-- Returns: how many were not written down before
-- Errors: NORUN, SCHEMA, BADARG
-- Bound: the tasks given, at most 1000
-- Flags: allow-oom
-- @include gate
-- @include gateway_ends

return run(function()
  load_state()
  local n, new = #ARGV - 1, 0
  if n < 1 or n > 1000 then fail('BADARG', 'argument', 'tasks', 'given', n, 'low', 1, 'high', 1000) end
  flush()
  for i = 2, n + 1 do new = new + note_end(ARGV[i]) end
  return new
end)
