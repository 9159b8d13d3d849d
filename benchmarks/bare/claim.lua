-- The least that a claim can do: pop a task, number the attempt, note the lease, return the payload.
-- KEYS: state, pending, leases. ARGV: task prefix, n. Five commands for each task, and one for the time.
local answer = {}
local time = redis.call('TIME')
for _ = 1, tonumber(ARGV[2]) do
  local id = redis.call('ZPOPMIN', KEYS[2])[1]
  if not id then break end
  local attempt = redis.call('HINCRBY', KEYS[1], 'attempts', 1)
  redis.call('HSET', ARGV[1] .. id, 'attempt', attempt, 'state', 'held')
  redis.call('ZADD', KEYS[3], time[1] + 60, id)
  local n = #answer
  answer[n + 1], answer[n + 2], answer[n + 3] = id, attempt, redis.call('HGET', ARGV[1] .. id, 'payload')
end
return answer
