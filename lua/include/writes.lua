-- @include wake_markers
-- Collects the writes that a script decided on. flush() sends them in few variadic commands: their number does not grow with each task.
-- Nothing is written before flush(), so a script that fails while it decides has written nothing.

local zset_writes, hash_writes, unlinks, events = {}, {}, {}, {} -- zset_writes, hash_writes: key -> log of its writes
-- A log holds pairs, each in the order that its command takes: score and member of a set, field and value of a hash. A pair deletes if its
-- score or value is false. `deletes` is the number of such pairs; nil: there are none.
local function write(writes, name, first, second)
  local log = writes[name]
  if not log then
    log = { first, second }
    writes[name] = log
    return log
  end
  local n = #log
  log[n + 1], log[n + 2] = first, second
  return log
end

local function zput(name, member, score) write(zset_writes, name, score, member) end
local function hput(name, field_name, value) write(hash_writes, name, field_name, value) end

local function zdel(name, member)
  local log = write(zset_writes, name, false, member)
  log.deletes = (log.deletes or 0) + 1
end

local function hdel(name, field_name)
  local log = write(hash_writes, name, field_name, false)
  log.deletes = (log.deletes or 0) + 1
end

local function unlink(name)
  unlinks[#unlinks + 1] = name
end

-- A list that calls use again: making a list grow costs more than filling it.
local PAIRS = {}

-- Notes a transition for the event stream. All transitions of a call share one entry.
local function contains(list, value)
  for i = 1, #list do
    if list[i] == value then return true end
  end
  return false
end

local function event(kind, text)
  if state.events_maxlen ~= '0' then
    local n = #events
    events[n + 1], events[n + 2] = kind, text
  end
end

-- Returns the additions (nil: none) and the deletions of a log that has deletions: the last pair of each member counts. value_at: the place of
-- the score (1) or value (2) in a pair.
local function last_words(log, value_at)
  local member_at = 3 - value_at
  if log.deletes * 2 == #log then -- all pairs delete; deleting a member twice does no harm
    local removes, n = { log[member_at] }, 1
    for i = member_at + 2, #log, 2 do
      n = n + 1
      removes[n] = log[i]
    end
    return nil, removes
  end
  local adds, removes, n, last = {}, {}, 0, {}
  for i = 0, #log - 2, 2 do last[log[i + member_at]] = i end
  for member, i in pairs(last) do
    if log[i + value_at] == false then
      removes[#removes + 1] = member
    else
      adds[n + 1], adds[n + 2] = log[i + 1], log[i + 2]
      n = n + 2
    end
  end
  return adds, removes
end

local function write_logs(writes, add, remove, value_at)
  for name, log in pairs(writes) do
    local adds, removes = log, nil
    if log.deletes then adds, removes = last_words(log, value_at) end
    if removes and #removes > 0 then call_in_pieces(remove, name, removes) end
    if adds and #adds > 0 then call_in_pieces(add, name, adds, 2) end
  end
end

local function drop_writes()
  zset_writes, hash_writes, unlinks, events, Staleness.unwritten = {}, {}, {}, {}, false
  Markers.disarm()
end

local save_records -- set by record_cache.lua: writes the changed tasks and slots; flush() deletes records after that

-- is_last: nothing is written after it in this call.
local function flush(is_last)
  if save_records then save_records() end
  local leases_changed = zset_writes[LEASES]
  write_logs(zset_writes, 'ZADD', 'ZREM', 1)
  if leases_changed then set('shortest_lease', tonumber(redis.call('ZRANGE', LEASES, 0, 0, 'WITHSCORES')[2]) or 0) end
  write_logs(hash_writes, 'HSET', 'HDEL', 2)
  for from = 1, #unlinks, 1000 do redis.call('UNLINK', unpack(unlinks, from, math.min(from + 999, #unlinks))) end
  for from = 1, #events, 1000 do
    redis.call('XADD', EVENTS, 'MAXLEN', '~', state.events_maxlen, '*',
      unpack(events, from, math.min(from + 999, #events)))
  end
  arm_markers()
  if Staleness.unwritten then Staleness.write() end
  if state_changed.due then set('due_by_us', state.due) end
  local list, n = PAIRS, 0
  for name, value in pairs(state_changed) do
    list[n + 1], list[n + 2] = name, value
    n = n + 2
  end
  if n > 0 then redis.call('HSET', STATE, unpack(list, 1, n)) end
  if is_last then return end
  state_changed = {}
  drop_writes()
end
