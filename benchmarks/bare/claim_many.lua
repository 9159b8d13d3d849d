-- Like claim.lua, but with shared hashes: the number of commands does not depend on n.
-- KEYS: state, pending, leases, payloads, attempts. ARGV: n.
local popped = redis.call('ZPOPMIN', KEYS[2], ARGV[1])
if #popped == 0 then return {} end
local time = redis.call('TIME')
local ids, attempts, leases = {}, {}, {}
local first = redis.call('HINCRBY', KEYS[1], 'attempts', #popped / 2) - #popped / 2
for i = 1, #popped / 2 do
  local id = popped[2 * i - 1]
  ids[i] = id
  attempts[2 * i - 1], attempts[2 * i] = id, first + i
  leases[2 * i - 1], leases[2 * i] = time[1] + 60, id
end
redis.call('HSET', KEYS[5], unpack(attempts))
redis.call('ZADD', KEYS[3], unpack(leases))
local payloads = redis.call('HMGET', KEYS[4], unpack(ids))
local answer = {}
for i = 1, #ids do
  local at = 3 * i
  answer[at - 2], answer[at - 1], answer[at] = ids[i], attempts[2 * i], payloads[i]
end
return answer
