-- Frees what nothing needs any more: bytes of batches two steps back, tasks below the floor, old policies, the oldest dead and rejected tasks.
-- Transition: consumed, dead, rejected -> forgotten
-- KEYS: state
-- ARGV: now, limit
-- Returns: `more dead rejected`: 0 when nothing is left to free, 1: perhaps, 2: it stopped because of the slots; and how many dead and rejected tasks it freed
-- Errors: NORUN, SCHEMA, BADARG
-- Bound: limit tasks of each kind, and of them as many as have 1000 slots (one more task at most); the batches that are kept, where steps had none
-- Flags: allow-oom
-- @include freeing

local FIELDS = hot_and({ 'finished_ids', 'bytes_from', 'bytes_at', 'tasks_from', 'floor', 'checkpoints' })
local ended = { dead = 0, rejected = 0 } -- of those, how many

-- The first step from `from` on whose batch is kept, or `bound`: steps without one are passed over at once.
local function next_kept(from, bound)
  if from >= bound or redis.call('HEXISTS', BATCHES, int_text(from)) == 1 then return from end
  local step = bound
  for _, kept in ipairs(redis.call('HKEYS', BATCHES)) do
    local n = tonumber(kept)
    if n >= from and n < step then step = n end
  end
  return step
end

-- The results of a batch live until the advance after its own: slow ranks still read.
local function free_bytes(limit)
  local step = next_kept(num('bytes_from'), num('version') - 1)
  set('bytes_from', math.max(num('bytes_from'), step))
  if step >= num('version') - 1 then return false end
  local offset = num('bytes_at')
  local ids = redis.call('ZRANGE', key('batch:' .. int_text(step)), offset, offset + limit - 1)
  local n = within_bounds(ids)
  for i = 1, n do
    local t = tasks[ids[i]]
    load_slots_of(t)
    for k = 0, t.samples - 1 do
      if letter(t, k) == 'D' then unlink(RESULT .. attempt_id(t, k, slot_of(t, k))) end
    end
  end
  if n == #ids and n < limit then
    set('bytes_from', step + 1)
    set('bytes_at', 0)
  else
    set('bytes_at', offset + n)
  end
  return true
end

-- Where no checkpoint was committed, the floor follows the version at a distance of retention_steps.
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
  local n = within_bounds(ids)
  for i = 1, n do
    if tasks[ids[i]] then forget(tasks[ids[i]]) end
    zdel(batch, ids[i])
  end
  if n == #ids and n < limit then
    hdel(BATCHES, int_text(step))
    set('tasks_from', step + 1)
  end
  return true
end

-- What ended at a step from the floor on is kept beyond the bound: a recovery may bring it back. What is freed is told: it
-- was never trained on, and only the trainer can bring it again.
local function free_finished(word, name, limit)
  local excess = math.min(limit, redis.call('ZCARD', name) - num('max_finished'))
  local ids = excess > 0 and redis.call('ZRANGE', name, 0, excess - 1) or {}
  for i = 1, within_bounds(ids) do
    local t = tasks[ids[i]]
    if t and tonumber(t.step) >= num('floor') then return false end
    if t then
      event('freed', t.id .. ' ' .. word .. ' ' .. escape(redis.call('HGET', REASONS, t.id) or ''))
      ended[word] = ended[word] + 1
      forget(t)
    end
    zdel(name, ids[i])
    hdel(REASONS, ids[i])
  end
  return #ids > 0
end

-- A policy older than this could not be used after a recovery to the floor either.
local function free_policies(limit)
  local s = max_staleness()
  if not s or state.on_stale == 'keep' then return false end
  local needed = num('version') - num('floor') + s + 2
  if redis.call('HLEN', POLICIES) <= needed then return false end
  local freed = 0
  for _, version in ipairs(redis.call('HKEYS', POLICIES)) do
    if freed < limit and tonumber(version) < num('floor') - s - 1 then
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
  for word, n in pairs(ended) do
    if n > 0 then bump('total_freed_' .. word, n) end
  end
  flush()
  return table.concat({ stopped and 2 or more and 1 or 0, ended.dead, ended.rejected }, ' ')
end)
