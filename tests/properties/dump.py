"""A script of the tests that reads every key of a run at once, so that a step costs one round trip."""

DUMP_SOURCE = b"""
local prefix = KEYS[1]:sub(1, -6)
local out = {}
for _, key in ipairs(redis.call('KEYS', prefix:gsub('[%[%]*?\\\\^]', '\\\\%0') .. '*')) do
  local kind = redis.call('TYPE', key).ok
  local name = key:sub(#prefix + 1)
  if kind == 'hash' then
    out[#out + 1] = { name, redis.call('HGETALL', key) }
  elseif kind == 'zset' then
    out[#out + 1] = { name, redis.call('ZRANGE', key, 0, -1, 'WITHSCORES') }
  elseif kind == 'string' then
    out[#out + 1] = { name, { redis.call('GET', key), tostring(redis.call('PTTL', key)) } }
  end
end
return out
"""
