-- Makes tasks for claim.lua. KEYS: pending. ARGV: task prefix, first number, count, payload.
for i = tonumber(ARGV[2]), ARGV[2] + ARGV[3] - 1 do
  local id = string.format('%d', i)
  redis.call('HSET', ARGV[1] .. id, 'payload', ARGV[4])
  redis.call('ZADD', KEYS[1], i, id)
end
