-- @include fields
-- The slots that are held, which max_concurrent_samples bounds. Their number is the field `held` of the state (protocol, I3). It is kept only
-- where the run has that bound; when the bound is set, the slots are counted.

local Samples = {}
Samples.freed = false -- whether an attempt ended in this call

-- Returns the bound, or nil if there is none.
Samples.most = function()
  local most = state.max_concurrent_samples
  return most and most ~= '' and most + 0 or nil
end

-- Returns how many more slots may be held, which may be negative; nil: there is no bound.
Samples.free = function()
  local most = Samples.most()
  return most and most - num('held')
end

Samples.took = function(n)
  if Samples.most() then bump('held', n) end
end

-- An attempt ended: another slot may be held, so flush() arms the workers' marker if there is work.
Samples.gave_back = function()
  if not Samples.most() then return end
  bump('held', -1)
  Samples.freed = true
end

-- Counts them by the books of the sessions.
Samples.count = function()
  local ids, held = redis.call('ZRANGE', SESSIONS, 0, -1), 0
  for i = 1, #ids do held = held + redis.call('ZCARD', SESSION .. ids[i]) end
  return held
end
