-- @include attempts
-- The answer to an attempt that does not hold its slot, and the attempt that holds it instead.

local function refusal(attempt)
  local why = ended_why(attempt)
  if why == 'superseded' then
    local t, k, s = holder(attempt)
    return table.concat({ why, attempt_id(t, k, s), s.session, int_text(now - s.at) }, ' '), why, attempt_id(t, k, s)
  end
  if why == 'stale' then return why, why, '-' end
  return 'unknown ' .. why, why, '-'
end
