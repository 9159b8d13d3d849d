-- @include task_options
-- Task and slot records: their layout.
--
-- TASKS    <task> -> state,priority,order,samples,min_samples,errors,first,oldest,newest,stales,requeues,step,letters;slot
--   state: P pending, D delayed, R running, Y ready, B batched (consumed once its step < version), X dead, J rejected
--   order: the task's number in the order of enqueue; of a retried task `order/born`, its new number and its first one;
--   first: number of its first claim since it last waited in `pending` or `delayed` (0: none)
--   oldest, newest: versions of its samples (-1: none); step: of its batch, or step_next when it ended dead or rejected (-1: none)
--   letters: one for each slot: O open, W waiting for its backoff, H held, D done, F failed for good, S surplus; empty: all slots are open
--   slot: the record of the first slot, empty before its first claim. The records of the other slots, which most tasks do not have, are in SLOTS
-- SLOTS    <task>#<slot> -> claims,tries,random,version,epoch,session,at,why,newest,newest_epoch   (from its first claim on)
--   claims: numbers the slot's attempts and never goes back; at: when the last attempt was claimed, or when it ended without a result;
--   why: how the last attempt ended (empty: held; of a done slot: how many ms it took, empty if that was not measured);
--   while the slot is held, `expired` says that the attempt before expired
-- PAYLOADS <task> -> bytes;  REASONS <task> -> why it is dead or rejected
--
-- In the cache all fields except `samples` are texts as they are stored, because turning a number into text costs as much as a command.
-- `fixed` is `priority,order,samples,min_samples` (task_options.lua takes it apart), and `again` is `stales,requeues`: few scripts need
-- their parts.

local WORD = '([^,]*)'
local LAYOUT = {
  task = '^(%a),([^,]*,[^,]*,([^,]*),[^,]*)' .. string.rep(',' .. WORD, 4) .. ',([^,]*,[^,]*),([^,]*),(%a*);?(.*)$',
  oldest = '^%a' .. string.rep(',[^,]*', 6) .. ',([^,]*)',
  samples = '^%a,[^,]*,[^,]*,(%d+)',
  ready = '^Y(,[^,]*,[^,]*,([^,]*),[^,]*,[^,]*' .. string.rep(',' .. WORD, 2)
    .. string.rep(',[^,]*', 3) .. ',)[^,]*(,.*)$',
  first_slot = '^%a' .. string.rep(',[^,]*', 11) .. ',(%a*);?(%d*),?[^,]*,?(%w*)',
  slot = '^' .. WORD .. string.rep(',' .. WORD, 9) .. '$',
}

-- Tables of earlier calls, which are used again: making a table costs more than filling one.
local SPARE = { tasks = {}, slots = {} }
local MOST_SPARE = 256
local used = { tasks = 0, slots = 0 }

local function blank(kind)
  local n = used[kind] + 1
  used[kind] = n
  local record = SPARE[kind][n]
  if not record then
    record = {}
    if n <= MOST_SPARE then SPARE[kind][n] = record end
  end
  return record
end

local function decode_task(id, record)
  local t = blank('tasks')
  t.id, t.slot = id, false -- the slot is decoded when it is asked for
  t.state, t.fixed, t.samples, t.errors, t.first, t.oldest, t.newest, t.again, t.step, t.letters, t.slot_text =
    record:match(LAYOUT.task)
  t.samples = tonumber(t.samples)
  if t.letters == '' then t.letters = t.samples == 1 and 'O' or string.rep('O', t.samples) end
  return t
end

-- Parts of stored records. Decoding the whole record of a task costs twice as much.
local Stored = {}

-- The field `oldest` of a task's record.
Stored.oldest = function(record) return record:match(LAYOUT.oldest) end

Stored.samples = function(record) return tonumber(record:match(LAYOUT.samples)) end

-- The letters in a task's record (empty: all slots are open), and `claims` and `random` of the task's first slot (empty: it was never claimed).
Stored.first_slot = function(record) return record:match(LAYOUT.first_slot) end

-- Takes the record of a ready task apart: what is before its step, its samples, first and oldest, and what is after its step.
Stored.ready = function(record) return record:match(LAYOUT.ready) end

-- The record of a task of a batch, from the parts of its record while it was ready.
Stored.batched = function(before, step, after) return 'B' .. before .. step .. after end

-- The id of the last attempt of the slot `name`, whose record this is.
Stored.attempt = function(name, record)
  local claims, random = record:match('^(%d+),[^,]*,(%w*)')
  return name .. '.' .. claims .. '.' .. random
end

-- Returns how often the task was reset as too old, and how often it went back to waiting altogether, as numbers.
local function again_parts(t)
  local stales, requeues = t.again:match('^([^,]*),(.*)$')
  return tonumber(stales), tonumber(requeues)
end

local function set_again(t, stales, requeues) t.again = small_text(stales) .. ',' .. small_text(requeues) end

local function decode_slot(record)
  local s = blank('slots')
  s.claims, s.tries, s.random, s.version, s.epoch, s.session, s.at, s.why, s.newest, s.newest_epoch =
    record:match(LAYOUT.slot)
  return s
end

local function encode_slot(s)
  return s.claims .. ',' .. s.tries .. ',' .. s.random .. ',' .. s.version .. ',' .. s.epoch .. ',' .. s.session .. ','
    .. s.at .. ',' .. s.why .. ',' .. s.newest .. ',' .. s.newest_epoch
end

local function encode_task(t)
  local letters, slot = t.letters, t.slot_text or encode_slot(t.slot)
  if not letters:find('[^O]') then letters = '' end
  return t.state .. ',' .. t.fixed .. ',' .. t.errors .. ',' .. t.first .. ',' .. t.oldest .. ',' .. t.newest .. ','
    .. t.again .. ',' .. t.step .. ',' .. letters .. (slot ~= '' and ';' or '') .. slot
end

-- The task's score in `pending` and `open`: larger priority first, then order of enqueue. The score is exact in a double.
local function place_of(priority, order) return -priority * 4398046511104 + order end
local function place(t)
  local parts = TaskOptions.of(t)
  return place_of(parts.priority, parts.order)
end
