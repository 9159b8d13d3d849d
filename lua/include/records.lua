-- @include writes
-- Task and slot records: their layout, a cache, and their writing.
--
-- TASKS    <task> -> state,priority,order,samples,min_samples,errors,first,oldest,newest,stales,requeues,step,letters
--   state: P pending, D delayed, R running, Y ready, B batched (consumed once its step < version), X dead, J rejected
--   order: number of the task in the order of enqueue; first: number of its first claim since it last was waiting (0: none)
--   oldest, newest: versions of its samples (-1: none); step: its batch, or the next step when it was rejected (-1: none)
--   letters: one a slot, O open, W waiting for its backoff, H held, D done, F failed for good; empty: all open
-- SLOTS    <task>#<slot> -> claims,tries,random,version,epoch,session,at,why,newest,newest_epoch   (from its first claim on)
--   claims numbers the slot's attempts and never goes back; why: how the last attempt ended (empty: held or done)
-- PAYLOADS <task> -> bytes;  REASONS <task> -> why it is dead or rejected

local tasks, slots, dirty_tasks, dirty_slots = {}, {}, {}, {}

local TASK_PATTERN = '^(%a),(%-?%d+),(%d+),(%d+),(%d+),(%d+),(%d+),(%-?%d+),(%-?%d+),(%d+),(%d+),(%-?%d+),(%a*)$'
local SLOT_PATTERN = '^(%d+),(%d+),([^,]*),(%-?%d+),([^,]*),([^,]*),(%d+),([^,]*),(%-?%d+),([^,]*)$'

local function decode_task(id, record)
  local s, priority, order, samples, min, errors, first, oldest, newest, stales, requeues, step, letters =
    record:match(TASK_PATTERN)
  samples = tonumber(samples)
  if letters == '' then letters = string.rep('O', samples) end
  return {
    id = id, state = s, priority = tonumber(priority), order = tonumber(order), samples = samples, min = tonumber(min),
    errors = tonumber(errors), first = tonumber(first), oldest = tonumber(oldest), newest = tonumber(newest),
    stales = tonumber(stales), requeues = tonumber(requeues), step = tonumber(step), letters = letters,
  }
end

local function encode_task(t)
  local letters = t.letters
  if not letters:find('[^O]') then letters = '' end
  return table.concat({ t.state, t.priority, t.order, t.samples, t.min, t.errors, t.first, t.oldest, t.newest, t.stales,
    t.requeues, t.step, letters }, ',')
end

local function decode_slot(record)
  local claims, tries, random, version, epoch, session, at, why, newest, newest_epoch = record:match(SLOT_PATTERN)
  return {
    claims = tonumber(claims), tries = tonumber(tries), random = random, version = tonumber(version), epoch = epoch,
    session = session, at = tonumber(at), why = why, newest = tonumber(newest), newest_epoch = newest_epoch,
  }
end

local function encode_slot(s)
  return table.concat({ s.claims, s.tries, s.random, s.version, s.epoch, s.session, s.at, s.why, s.newest,
    s.newest_epoch }, ',')
end

-- Reads the records of ids that are not in the cache yet; tasks[id] is then a record or false.
local function load_tasks(ids)
  local missing = {}
  for i = 1, #ids do
    local id = ids[i]
    if tasks[id] == nil then
      tasks[id] = false
      missing[#missing + 1] = id
    end
  end
  local got = hmget(TASKS, missing)
  for i = 1, #missing do
    if got[i] then tasks[missing[i]] = decode_task(missing[i], got[i]) end
  end
end

local function load_slots(names)
  local missing = {}
  for i = 1, #names do
    local name = names[i]
    if slots[name] == nil then
      slots[name] = false
      missing[#missing + 1] = name
    end
  end
  local got = hmget(SLOTS, missing)
  for i = 1, #missing do
    if got[i] then slots[missing[i]] = decode_slot(got[i]) end
  end
end

local function load_slots_of(t)
  local names = {}
  for k = 0, t.samples - 1 do names[k + 1] = t.id .. '#' .. k end
  load_slots(names)
end

local function changed(t) dirty_tasks[t.id] = t end
local function slot_changed(t, k, s) dirty_slots[t.id .. '#' .. k] = s end

local function letter(t, k) return t.letters:sub(k + 1, k + 1) end

local function set_letter(t, k, c)
  t.letters = t.letters:sub(1, k) .. c .. t.letters:sub(k + 2)
  changed(t)
end

local function attempt_id(t, k, s) return t.id .. '#' .. k .. '.' .. s.claims .. '.' .. s.random end

-- The task, slot number, claims and random part that an attempt id names; nil when it is none.
local function parse_attempt(id)
  local task, k, claims, random = id:match('^([^#]+)#(%d+)%.(%d+)%.(%w+)$')
  if task then return task, tonumber(k), tonumber(claims), random end
end

-- Whether s is (or was last) the attempt with these numbers: equality, never order.
local function is_attempt(s, claims, random) return s and s.claims == claims and s.random == random end

-- Place in the order, for `pending` and `open`: larger priority first, then order of enqueue; exact in a double.
local function place(t) return -t.priority * 4398046511104 + t.order end

save_records = function()
  for id, t in pairs(dirty_tasks) do hput(TASKS, id, encode_task(t)) end
  for name, s in pairs(dirty_slots) do hput(SLOTS, name, encode_slot(s)) end
  dirty_tasks, dirty_slots = {}, {}
end
