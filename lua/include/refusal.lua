-- @include attempts
-- The answer to an attempt that does not hold its slot; after it the reason alone, and the slot's newest attempt (`-` if that did not supersede it).

local function refusal(attempt)
  local why = ended_why(attempt)
  if why == 'superseded' then
    local t, k, s = holder(attempt)
    return table.concat({ why, attempt_id(t, k, s), s.session, int_text(now - s.at) }, ' '), why, attempt_id(t, k, s)
  end
  if why == 'stale' then return why, why, '-' end
  return 'unknown ' .. why, why, '-'
end
