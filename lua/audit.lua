-- Recomputes the counters from the structures; changes nothing.
-- Transition: none
-- KEYS: state
-- ARGV: now
-- Returns: per counter: name, stored, recomputed
-- Errors: NORUN, SCHEMA
-- Bound: constant
-- Flags: no-writes
-- @include counters

local FIELDS = hot_and({ 'open_size' })

return run(function()
  load_state(FIELDS)
  local found, answer = recomputed(), {}
  if state.recovering ~= '' then found.open_size = num('open_size') end -- a recovery moves tasks first, its commit sets this
  for _, name in ipairs(COUNTERS) do
    answer[#answer + 1] = name
    answer[#answer + 1] = int_text(num(name))
    answer[#answer + 1] = int_text(found[name])
  end
  return answer
end)
