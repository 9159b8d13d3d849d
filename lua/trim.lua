-- Frees what nothing needs any more: bytes of batches two steps back, tasks below the floor, old policies, the oldest dead and rejected tasks.
-- Transition: consumed, dead, rejected -> forgotten
-- KEYS: state
-- ARGV: now, limit
-- Returns: 1 when there is more to free, else 0
-- Errors: NORUN, SCHEMA, BADARG
-- Bound: limit tasks of each kind, and their slots
-- Flags: allow-oom
-- @include records

-- The results of a batch live until the advance after its own: slow ranks still read.
local function free_bytes(limit)
  local step = num('bytes_from')
  if step >= num('version') - 1 then return false end
  local offset = num('bytes_at')
  local ids = redis.call('ZRANGE', key('batch:' .. int_text(step)), offset, offset + limit - 1)
  load_tasks(ids)
  for i = 1, #ids do
    local t = tasks[ids[i]]
    load_slots_of(t)
    for k = 0, t.samples - 1 do
      if letter(t, k) == 'D' then unlink(key('result:' .. attempt_id(t, k, slots[t.id .. '#' .. k]))) end
    end
  end
  if #ids < limit then
    set('bytes_from', step + 1)
    set('bytes_at', 0)
  else
    set('bytes_at', offset + limit)
  end
  return true
end

local function forget(t)
  for k = 0, t.samples - 1 do hdel(SLOTS, t.id .. '#' .. k) end
  hdel(TASKS, t.id)
  hdel(PAYLOADS, t.id)
end

-- Where no checkpoint was committed, the floor follows the version at a distance of retention_steps.
local function free_tasks(limit)
  if state.checkpoints == '' then
    local floor = num('version') - num('retention_steps')
    if floor > num('floor') then set('floor', floor) end
  end
  local step = num('tasks_from')
  if step >= math.min(num('floor'), num('bytes_from')) then return false end
  local batch = key('batch:' .. int_text(step))
  local ids = redis.call('ZRANGE', batch, 0, limit - 1)
  load_tasks(ids)
  for i = 1, #ids do
    if tasks[ids[i]] then forget(tasks[ids[i]]) end
    zdel(batch, ids[i])
  end
  if #ids < limit then
    hdel(BATCHES, int_text(step))
    set('tasks_from', step + 1)
  end
  return true
end

local function free_finished(name, limit)
  local excess = math.min(limit, redis.call('ZCARD', name) - num('max_finished'))
  if excess <= 0 then return false end
  local ids = redis.call('ZRANGE', name, 0, excess - 1)
  load_tasks(ids)
  for i = 1, #ids do
    if tasks[ids[i]] then forget(tasks[ids[i]]) end
    zdel(name, ids[i])
    hdel(REASONS, ids[i])
  end
  return true
end

-- A policy older than this could not be used after a recovery to the floor either.
local function free_policies(limit)
  local s, from = max_staleness(), num('policies_from')
  if not s or state.on_stale == 'keep' then return false end
  local to = math.min(num('floor') - s - 2, from + limit - 1)
  for version = from, to do hdel(POLICIES, int_text(version)) end
  if to >= from then set('policies_from', to + 1) end
  return to >= from
end

return run(function()
  load_state({ 'bytes_from', 'bytes_at', 'tasks_from', 'floor', 'checkpoints', 'retention_steps', 'max_finished',
    'policies_from' })
  local limit = int_arg(2, 'limit', 1, 1000)
  if state.recovering ~= '' then return 0 end
  local more = free_bytes(limit)
  more = free_tasks(limit) or more
  more = free_finished(DEAD, limit) or more
  more = free_finished(REJECTED, limit) or more
  more = free_policies(limit) or more
  flush()
  return more and 1 or 0
end)
