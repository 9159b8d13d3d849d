-- The least that an advance can do: count the step, and free what was trained.
-- KEYS: state, payloads. ARGV: prefix of results, then the ids of the batch.
local ids, results = { unpack(ARGV, 2) }, {}
for i = 1, #ids do results[i] = ARGV[1] .. ids[i] end
redis.call('UNLINK', unpack(results))
redis.call('HDEL', KEYS[2], unpack(ids))
return redis.call('HINCRBY', KEYS[1], 'version', 1)
