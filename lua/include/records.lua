-- @include writes
-- @include layout
-- The task and slot records that a script has read, and the writing of those that it changed.

local tasks, slots, dirty_tasks, dirty_slots = {}, {}, {}, {}

-- Reads the records of ids that are not in the cache yet; tasks[id] is then a record or false.
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
  for k = 0, t.samples - 1 do names[k + 1] = slot_name(t, k) end
  load_slots(names)
end

local function changed(t) dirty_tasks[t.id] = t end
local function slot_changed(t, k, s) dirty_slots[slot_name(t, k)] = s end

local function letter(t, k) return t.letters:sub(k + 1, k + 1) end

local function set_letter(t, k, c)
  t.letters = t.samples == 1 and c or t.letters:sub(1, k) .. c .. t.letters:sub(k + 2)
  changed(t)
end

local function attempt_id(t, k, s) return slot_name(t, k) .. '.' .. s.claims .. '.' .. s.random end

local function write_records(name, dirty, encode)
  local list, n = {}, 0
  for id, record in pairs(dirty) do
    list[n + 1], list[n + 2] = id, encode(record)
    n = n + 2
  end
  if n > 0 then call_in_pieces('HSET', name, list, 2) end
end

save_records = function()
  write_records(TASKS, dirty_tasks, encode_task)
  write_records(SLOTS, dirty_slots, encode_slot)
  dirty_tasks, dirty_slots = {}, {}
end
