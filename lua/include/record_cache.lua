-- @include failures
-- @include record_layout
-- The cache of the task and slot records that a script has read. save_records writes the records that the script changed.

local tasks, slots, dirty_tasks, dirty_slots = {}, {}, {}, {} -- slots: those after a task's first, by `task#slot`

-- Reads the records of those ids that are not in the cache yet. After that, tasks[id] is a record, or false if there is none.
local function load_tasks(ids)
  local missing, n = {}, 0
  for i = 1, #ids do
    local id = ids[i]
    if tasks[id] == nil then
      tasks[id] = false
      n = n + 1
      missing[n] = id
    end
  end
  local got = hmget(TASKS, missing)
  for i = 1, n do
    if got[i] then tasks[missing[i]] = decode_task(missing[i], got[i]) end
  end
end

local function load_slots(names)
  local missing, n = {}, 0
  for i = 1, #names do
    local name = names[i]
    if slots[name] == nil then
      slots[name] = false
      n = n + 1
      missing[n] = name
    end
  end
  local got = hmget(SLOTS, missing)
  for i = 1, n do
    if got[i] then slots[missing[i]] = decode_slot(got[i]) end
  end
end

local function slot_name(t, k) return t.id .. '#' .. small_text(k) end

local function load_slots_of(t)
  local names = {}
  for k = 1, t.samples - 1 do names[k] = slot_name(t, k) end
  load_slots(names)
end

-- Returns the record of slot k, false or nil before its first claim. Slot 0 is part of its task; other slots must have been read.
local function slot_of(t, k)
  if k > 0 then return slots[slot_name(t, k)] end
  if not t.slot and t.slot_text ~= '' then t.slot = decode_slot(t.slot_text) end
  return t.slot
end

local function changed(t) dirty_tasks[t.id] = t end

local function slot_changed(t, k, s)
  if k > 0 then
    dirty_slots[slot_name(t, k)] = s
  else
    t.slot_text = nil -- made anew when the task is written
    changed(t)
  end
end

-- Sets the slot's record to this text. The cache keeps the old record of a slot after the first, so the script must not read it again.
local function replace_slot(t, k, text)
  if k > 0 then
    hput(SLOTS, slot_name(t, k), text)
  else
    t.slot_text, t.slot = text, false
    changed(t)
  end
end

local function letter(t, k) return t.letters:sub(k + 1, k + 1) end

local function set_letter(t, k, c)
  t.letters = t.samples == 1 and c or t.letters:sub(1, k) .. c .. t.letters:sub(k + 2)
  changed(t)
end

local function attempt_id(t, k, s) return slot_name(t, k) .. '.' .. s.claims .. '.' .. s.random end

local function write_records(name, dirty, encode)
  local list, n = PAIRS, 0
  for id, record in pairs(dirty) do
    list[n + 1], list[n + 2] = id, encode(record)
    n = n + 2
    if n == 1000 then
      redis.call('HSET', name, unpack(list, 1, n))
      n = 0
    end
  end
  if n > 0 then redis.call('HSET', name, unpack(list, 1, n)) end
end

save_records = function()
  write_records(TASKS, dirty_tasks, encode_task)
  write_records(SLOTS, dirty_slots, encode_slot)
  dirty_tasks, dirty_slots = {}, {}
end

-- Deletes the record of slot k, which is not the task's first.
local function drop_slot(id, k)
  local name = id .. '#' .. small_text(k)
  hdel(SLOTS, name)
  dirty_slots[name], slots[name] = nil, false
end

-- Deletes the records and the payload of a task with so many samples. Its entries in sets, its reason and its results stay.
local function drop_records(id, samples)
  for k = 1, samples - 1 do drop_slot(id, k) end
  hdel(TASKS, id)
  hdel(PAYLOADS, id)
  Failures.forget(id, true)
  dirty_tasks[id], tasks[id] = nil, false
end
