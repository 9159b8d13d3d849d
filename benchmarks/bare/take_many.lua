-- The least that forming and reading a batch can do: take the oldest results, and return them with their payloads.
-- KEYS: ready, payloads. ARGV: prefix of results, n.
local popped = redis.call('ZPOPMIN', KEYS[1], ARGV[2])
if #popped == 0 then return {} end
local ids, results, answer = {}, {}, {}
for i = 1, #popped / 2 do
  ids[i], results[i] = popped[2 * i - 1], ARGV[1] .. popped[2 * i - 1]
end
local payloads, bodies = redis.call('HMGET', KEYS[2], unpack(ids)), redis.call('MGET', unpack(results))
for i = 1, #ids do
  answer[3 * i - 2], answer[3 * i - 1], answer[3 * i] = ids[i], payloads[i], bodies[i]
end
return answer
