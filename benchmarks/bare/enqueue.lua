-- The least that an enqueue can do: three commands for any number of tasks.
-- KEYS: state, pending, payloads. ARGV: per task: id, payload.
local places, order = {}, redis.call('HINCRBY', KEYS[1], 'order', #ARGV / 2)
for i = 1, #ARGV, 2 do
  places[i], places[i + 1] = order + i, ARGV[i]
end
redis.call('HSET', KEYS[3], unpack(ARGV))
redis.call('ZADD', KEYS[2], unpack(places))
return #ARGV / 2
