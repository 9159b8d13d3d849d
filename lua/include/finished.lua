-- @include records
-- The ids of finished tasks whose records were freed: a data loader that brings them again must be told that they were here.
-- Kept as numbers in small sets, about 10 bytes an id: the first bits of its hash name the set, the next 52 are the member.

-- fakeredis has no sha1hex; a weaker hash does for tests.
local function hash_hex(text)
  if redis.sha1hex then return redis.sha1hex(text) end
  local a, b = 5381, 52711
  for i = 1, #text do
    a = (a * 33 + text:byte(i)) % 4294967296
    b = (b * 65599 + text:byte(i)) % 4294967296
  end
  return string.format('%08x%08x', a, b)
end

local function finished_place(id)
  local hash = hash_hex(id)
  return key('finished:' .. hash:sub(1, 3)), int_text(tonumber(hash:sub(4, 16), 16))
end

local function add_finished(id)
  local set_key, member = finished_place(id)
  redis.call('SADD', set_key, member)
  bump('finished_ids', 1)
end

local function is_finished(id)
  if num('finished_ids') == 0 then return false end
  local set_key, member = finished_place(id)
  return redis.call('SISMEMBER', set_key, member) == 1
end

-- Below the floor nothing is known of what was finished.
local function forget_finished()
  if num('finished_ids') == 0 then return end
  for i = 0, 4095 do unlink(key(string.format('finished:%03x', i))) end
  set('finished_ids', 0)
end

-- A recovery calls for the task again.
local function drop_finished(id)
  if num('finished_ids') == 0 then return end
  local set_key, member = finished_place(id)
  if redis.call('SREM', set_key, member) == 1 then bump('finished_ids', -1) end
end
