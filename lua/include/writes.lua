-- @include state
-- Collects what a script decided and writes it in few variadic commands: a fixed number of calls for a batch, not for a task.
-- Nothing is written before flush(), so a script that fails while it decides has written nothing.

local zset_writes, hash_writes, unlinks, events = {}, {}, {}, {} -- of sets and hashes: key -> member -> score or value, false: delete
local wake_workers, wake_trainer, slot_opened, task_ended = false, false, false, false

local function zput(name, member, score)
  local entries = zset_writes[name]
  if not entries then
    entries = {}
    zset_writes[name] = entries
  end
  entries[member] = score
end

local function zdel(name, member) zput(name, member, false) end

local function hput(name, field_name, value)
  local entries = hash_writes[name]
  if not entries then
    entries = {}
    hash_writes[name] = entries
  end
  entries[field_name] = value
end

local function hdel(name, field_name) hput(name, field_name, false) end

-- The score of a member as this script leaves it, in milliseconds; 0 when it is not there.
local function zscore(name, member)
  local written = zset_writes[name] and zset_writes[name][member]
  if written ~= nil then return tonumber(written or 0) end
  return tonumber(redis.call('ZSCORE', name, member) or 0)
end

local function unlink(name)
  unlinks[#unlinks + 1] = name
end

-- One transition for the event stream; all of a call share one entry.
local function event(kind, text)
  if state.events_maxlen ~= '0' then
    local n = #events
    events[n + 1], events[n + 2] = kind, text
  end
end

-- The workers' marker is armed only where a claim could get something: an open slot, or a task and capacity. Paths that raise either say so.
local function arm_workers() wake_workers = true end
-- The trainer's: when as many are ready as it waits for, or a task ended otherwise (fewer may be left than it waits for).
local function arm_trainer(ended) wake_trainer, task_ended = true, task_ended or ended end
local function arm_for_open_slot() wake_workers, slot_opened = true, true end
-- Rare calls of operators and trainers: the owners of an admission run listen, too, for whom no task has to wait.
local function arm_anyway() arm_for_open_slot() end

local function write_book(book, add, remove, score_first)
  for name, entries in pairs(book) do
    local adds, removes, n, gone = {}, {}, 0, 0
    for member, value in pairs(entries) do
      if value == false then
        gone = gone + 1
        removes[gone] = member
      else
        if score_first then adds[n + 1], adds[n + 2] = value, member else adds[n + 1], adds[n + 2] = member, value end
        n = n + 2
      end
    end
    if gone > 0 then call_in_pieces(remove, name, removes) end
    if n > 0 then call_in_pieces(add, name, adds, 2) end
  end
end

local function arm_markers()
  if wake_workers and state.paused ~= 'paused' then
    if slot_opened or (capacity() > 0 and redis.call('ZCARD', PENDING) > 0) then redis.call('ZADD', WAKE, 0, '1') end
  end
  if wake_trainer then
    local want = num('want')
    if want > 0 and (task_ended or redis.call('ZCARD', READY) >= want) then redis.call('ZADD', WAKE_READY, 0, '1') end
  end
end

local function drop_writes()
  zset_writes, hash_writes, unlinks, events = {}, {}, {}, {}
  wake_workers, wake_trainer, slot_opened, task_ended = false, false, false, false
end

local save_records -- set by records.lua: puts changed tasks and slots into hash_writes

local function flush()
  if save_records then save_records() end
  write_book(zset_writes, 'ZADD', 'ZREM', true)
  write_book(hash_writes, 'HSET', 'HDEL', false)
  for from = 1, #unlinks, 1000 do redis.call('UNLINK', unpack(unlinks, from, math.min(from + 999, #unlinks))) end
  for from = 1, #events, 1000 do
    redis.call('XADD', EVENTS, 'MAXLEN', '~', state.events_maxlen, '*',
      unpack(events, from, math.min(from + 999, #events)))
  end
  arm_markers()
  local fields, n = {}, 0
  for name, value in pairs(state_changed) do
    fields[n + 1], fields[n + 2] = name, value
    n = n + 2
  end
  if n > 0 then redis.call('HSET', STATE, unpack(fields)) end
  state_changed = {}
  drop_writes()
end
