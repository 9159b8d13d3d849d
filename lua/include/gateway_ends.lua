-- @include frame
-- The tasks that ended, for the clients of gateways: each once, with numbers in the order in which they ended.

local ENDS, ENDED = key('gateway:ends'), key('gateway:ended') -- the sorted set of tasks by number, and the newest number

-- Returns 1 if nobody had noted the end of the task, else 0.
local function note_end(id)
  if redis.call('ZSCORE', ENDS, id) then return 0 end
  redis.call('ZADD', ENDS, redis.call('INCR', ENDED), id)
  return 1
end
