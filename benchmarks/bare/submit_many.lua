-- Like submit.lua, but with shared hashes: the number of commands does not depend on the number of items.
-- KEYS: state, leases, ready, attempts. ARGV: prefix of results, then per task: id, attempt, result.
local ids, results, ready, answer = {}, {}, {}, {}
for i = 2, #ARGV, 3 do ids[#ids + 1] = ARGV[i] end
local held = redis.call('HMGET', KEYS[4], unpack(ids))
local done = {}
for i = 1, #ids do
  local at = 2 + 3 * (i - 1)
  if held[i] == ARGV[at + 1] then
    local n = #done
    done[n + 1] = ids[i]
    results[2 * n + 1], results[2 * n + 2] = ARGV[1] .. ids[i], ARGV[at + 2]
    ready[2 * n + 1], ready[2 * n + 2] = held[i], ids[i]
    answer[i] = 'accepted'
  else
    answer[i] = 'unknown'
  end
end
if #done == 0 then return answer end
redis.call('MSET', unpack(results))
redis.call('ZREM', KEYS[2], unpack(done))
redis.call('ZADD', KEYS[3], unpack(ready))
redis.call('HDEL', KEYS[4], unpack(done))
redis.call('HINCRBY', KEYS[1], 'accepted', #done)
return answer
