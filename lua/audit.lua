-- Recomputes the counters from the sets of tasks; changes nothing.
-- Transition: none
-- KEYS: state
-- ARGV: now
-- Returns: per counter: name, stored, recomputed
-- Errors: NORUN, SCHEMA
-- Bound: constant; with max_concurrent_samples the number of sessions
-- Flags: no-writes
-- @include counters

local FIELDS = hot_and({ 'open_size', 'awaited', 'ailing' })

return run(function()
  load_state(FIELDS)
  local found, answer = recomputed(), {}
  if state.recovering ~= '' then found.open_size = num('open_size') end -- a recovery's sweep moves the tasks, and its commit sets the counter later
  for _, name in ipairs(COUNTERS) do
    answer[#answer + 1] = name
    answer[#answer + 1] = int_text(counted(name))
    answer[#answer + 1] = int_text(found[name])
  end
  return answer
end)
