-- @include state

-- When a slot may be tried again after its n-th error: a pause that doubles, up to a bound. Returns nil for no pause.
local function retry_at(tries)
  local base = num('retry_backoff_ms')
  if base > 0 then return now + math.min(num('retry_backoff_max_ms'), base * 2 ^ math.min(tries - 1, 40)) end
end
