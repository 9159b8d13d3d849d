-- Frees what no reader and no recovery needs: results of batches two steps back, tasks of steps below the floor, old policies, the oldest dead and rejected tasks.
-- Transition: consumed, dead, rejected -> forgotten
-- KEYS: state
-- ARGV: now, limit
-- Returns: `more dead rejected`: more is 0 if nothing is left to free, 1 if more may be left, 2 if it stopped because of the slots; then how many dead and rejected tasks it freed
-- Errors: NORUN, SCHEMA, BADARG
-- Bound: limit tasks of each kind, until the tasks of the call have 1000 slots together (it finishes the last of these tasks); the number of batches that are kept, if a step had none
-- Flags: allow-oom
-- @include freeing
-- @include result_bytes
-- @include breaker

local FIELDS = hot_and({ 'finished_ids', 'bytes_from', 'bytes_at', 'tasks_from', 'floor', 'checkpoints' })
local ended = { dead = 0, rejected = 0 } -- how many of each this call freed
local slots_left = 1000 -- a call frees tasks with a bounded number of slots, because a task may have 1024
local stopped = false -- whether tasks that may be freed were left for the next call because of the bound: then this call has freed some

-- Returns the first step from `from` on that has a batch, or `bound` if there is none below it. Steps without a batch are skipped at once.
local function next_kept(from, bound)
  if from >= bound or redis.call('HEXISTS', BATCHES, int_text(from)) == 1 then return from end
  local step = bound
  for _, kept in ipairs(redis.call('HKEYS', BATCHES)) do
    local n = tonumber(kept)
    if n >= from and n < step then step = n end
  end
  return step
end

-- Frees the results of a batch after the advance that follows its own: until then slow ranks may still read them.
local function free_bytes(limit)
  local step = next_kept(num('bytes_from'), num('version') - 1)
  set('bytes_from', math.max(num('bytes_from'), step))
  if step >= num('version') - 1 then return false end
  local offset = num('bytes_at')
  local ids = redis.call('ZRANGE', key('batch:' .. int_text(step)), offset, offset + limit - 1)
  local n, slots_freed = ResultBytes.free_all(ids, hmget(TASKS, ids), slots_left)
  slots_left, stopped = slots_left - slots_freed, n < #ids
  if n == #ids and n < limit then
    set('bytes_from', step + 1)
    set('bytes_at', 0)
  else
    set('bytes_at', offset + n)
  end
  return true
end

-- Frees the tasks of batches below the floor. If no checkpoint is committed, the floor follows the version at a distance of retention_steps.
local function free_tasks(limit)
  if state.checkpoints == '' then
    local floor = num('version') - num('retention_steps')
    if floor > num('floor') then set('floor', floor) end
  end
  local bound = math.min(num('floor'), num('bytes_from'))
  local step = next_kept(num('tasks_from'), bound)
  set('tasks_from', math.max(num('tasks_from'), step))
  if step >= bound then return false end
  local batch = key('batch:' .. int_text(step))
  local ids = redis.call('ZRANGE', batch, 0, limit - 1)
  local records, freed, n = hmget(TASKS, ids), {}, 0
  while n < #ids and slots_left > 0 do
    n = n + 1
    local id, samples = ids[n], records[n] and Stored.samples(records[n]) or 0
    if samples > 0 then add_finished(id, true) end
    for k = 1, samples - 1 do drop_slot(id, k) end
    Failures.forget(id, true)
    slots_left, freed[n] = slots_left - math.max(samples, 1), id
  end
  if n > 0 then -- as drop_records would for each
    call_in_pieces('HDEL', TASKS, freed)
    call_in_pieces('HDEL', PAYLOADS, freed)
    call_in_pieces('ZREM', batch, freed)
  end
  stopped = stopped or n < #ids
  if n == #ids and n < limit then
    hdel(BATCHES, int_text(step))
    set('tasks_from', step + 1)
  end
  return true
end

-- Frees the oldest dead or rejected tasks above max_finished. A task that ended at a step from the floor on stays, because a recovery may
-- start it over.
local function free_finished(word, name, limit)
  local excess = math.min(limit, redis.call('ZCARD', name) - num('max_finished'))
  local ids = excess > 0 and redis.call('ZRANGE', name, 0, excess - 1) or {}
  load_tasks(ids)
  for i = 1, #ids do
    local t = tasks[ids[i]]
    if t and (tonumber(t.step) >= num('floor') or Breaker.streak()[t.id]) then return false end
    if slots_left <= 0 then
      stopped = true
      return true
    end
    slots_left = slots_left - (t and t.samples or 1)
    if t then
      free_untrained(t, redis.call('HGET', REASONS, t.id) or '')
      ended[word] = ended[word] + 1
    else
      zdel(name, ids[i])
      hdel(REASONS, ids[i])
    end
  end
  return #ids > 0
end

-- Frees policies that are too old to be used, even after a recovery to the floor.
local function free_policies(limit)
  local d = Staleness.limit()
  if not d or state.on_stale == 'keep' then return false end
  local needed = num('version') - num('floor') + d + 2
  if redis.call('HLEN', POLICIES) <= needed then return false end
  local freed = 0
  for _, version in ipairs(redis.call('HKEYS', POLICIES)) do
    if freed < limit and tonumber(version) < num('floor') - d - 1 then
      hdel(POLICIES, version)
      freed = freed + 1
    end
  end
  return freed == limit
end

return run(function()
  load_state(FIELDS)
  local limit = int_arg(2, 'limit', 1, 1000)
  if state.recovering ~= '' then return '0 0 0' end
  local more = free_bytes(limit)
  more = free_tasks(limit) or more
  more = free_finished('dead', DEAD, limit) or more
  more = free_finished('rejected', REJECTED, limit) or more
  more = free_policies(limit) or more
  flush()
  return table.concat({ stopped and 2 or more and 1 or 0, ended.dead, ended.rejected }, ' ')
end)
