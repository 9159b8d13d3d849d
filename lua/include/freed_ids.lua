-- @include record_cache
-- The ids of finished tasks whose records were freed. A data loader may enqueue such a task again, and is told that the run had it.
-- The ids are numbers in small sets, about 10 bytes an id. The first 12 bits of an id's hash name the set; the next 52 bits are the member.
-- The member is negative if the task ended dead or rejected: nobody trained on that task, and an enqueue with `again` may ask for it.

-- fakeredis, a server for tests, has no sha1hex; a weaker hash is enough there.
local function hash_hex(text)
  if redis.sha1hex then return redis.sha1hex(text) end
  local a, b = 5381, 52711
  for i = 1, #text do
    a = (a * 33 + text:byte(i)) % 4294967296
    b = (b * 65599 + text:byte(i)) % 4294967296
  end
  return string.format('%08x%08x', a, b)
end

-- The set of an id, its member if it was trained on, and its member if it was not.
local function finished_place(id)
  local hash = hash_hex(id)
  local member = int_text(tonumber(hash:sub(4, 16), 16))
  return key('finished:' .. hash:sub(1, 3)), member, '-' .. member
end

-- trained: whether a batch consumed the task.
local function add_finished(id, trained)
  local set_key, member, untrained = finished_place(id)
  redis.call('SADD', set_key, trained and member or untrained)
  bump('finished_ids', 1)
end

-- Returns what became of a freed task: `freed` (trained on) or `freed_untrained`; nil if it was not freed, or its id is forgotten.
local function freed_word(id)
  if num('finished_ids') == 0 then return nil end
  local set_key, member, untrained = finished_place(id)
  if redis.call('SISMEMBER', set_key, member) == 1 then return 'freed' end
  return redis.call('SISMEMBER', set_key, untrained) == 1 and 'freed_untrained' or nil
end

-- Forgets which tasks were finished.
local function forget_finished()
  if num('finished_ids') == 0 then return end
  for i = 0, 4095 do unlink(key(string.format('finished:%03x', i))) end
  set('finished_ids', 0)
end

-- Forgets that a task was finished: a recovery lists it as unfinished, or an enqueue with `again` asks for it.
local function drop_finished(id)
  if num('finished_ids') == 0 then return end
  local set_key, member, untrained = finished_place(id)
  bump('finished_ids', -redis.call('SREM', set_key, member, untrained))
end
