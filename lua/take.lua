-- Fills the next batch from the oldest ready rollouts, and seals the batch when it is full.
-- Transition: ready -> batched; too old: ready -> pending or rejected; all died of the streak: dead -> pending
-- KEYS: state
-- ARGV: now, gate (3), step, n (rollouts wanted), limit (how many ready tasks to look at; 0: only seal), seal (1: seal when full), short (1: also seal if the batch holds all tasks that are left in the run, and no feeder will bring more), rows (most rows in the answer; with `seal` of the batch that it sealed; without, of the tasks that it took, and then it takes no more than that; 0: none), bytes (most bytes of results in the answer)
-- Returns: `size sealed exhausted left more digest taken short halted` (exhausted: fewer than n tasks are left, and no feeder will bring more; taken: how many this call took; short: a batch of fewer than n is sealed when no more are left, as the caller asked or because the feeder is at its end; halted: 1 if the run is halted, and the batch was not sealed before); if there are rows a list: that text, the rows as batch's, then the results of their samples in order (none if they have more than `bytes`)
-- Errors: gate's, RECOVERING, EARLY (step, step_next, version), TOOMANY (n, bound), GONE (step), FINISHED (step), BADARG
-- Bound: limit tasks; it stops resetting tasks that are too old when these have 1000 slots together (it finishes the last one); rows as batch; sealing reads the ids of the batch, n <= (S+1)*B
-- Flags: allow-oom
-- @include gate
-- @include endings
-- @include rows
-- @include breaker

local FIELDS = gate_and({ 'open_size', 'recheck', 'supply', 'streak', 'awaited' })

-- Answers a take of a batch that was sealed before: its size and digest.
local function sealed_already(step)
  local size, digest = (redis.call('HGET', BATCHES, int_text(step)) or ''):match('^(%d+) (%w+)')
  if not size then fail('GONE', 'step', int_text(step)) end
  return table.concat({ size, 1, 0, 0, 0, digest, 0, 0, 0 }, ' ')
end

local function check_wanted(step, n)
  if step > num('step_next') or step > num('version') + 1 then
    fail('EARLY', 'step', int_text(step), 'step_next', state.step_next, 'version', state.version)
  end
  local s = Staleness.admitted()
  if not s then return end
  local bound = (step > num('version') and s or s + 1) * batch_size()
  if n > bound then fail('TOOMANY', 'n', int_text(n), 'bound', int_text(bound), 'step', int_text(step)) end
end

-- After a change of config, resets the rollouts of the unsealed batch that are too old now.
local function recheck_open_batch(step)
  if field('recheck') ~= '1' then return end
  local ids = redis.call('ZRANGE', key('batch:' .. int_text(step)), 0, -1)
  load_tasks(ids)
  for i = 1, #ids do
    if too_old(tasks[ids[i]].oldest) then stale_task(tasks[ids[i]]) end
  end
  set('recheck', 0)
  flush()
end

-- Moves ready tasks to the batch. Returns whether there are ready tasks that it did not look at, and the ids of the tasks that it took.
-- told: the most tasks to look at, because the answer has a row for each; together they have at most MOST_SLOTS slots. 0: no rows, no such bound.
local function fill(step, n, limit, told)
  local ids, taken = redis.call('ZRANGE', READY, 0, limit), {}
  local looked = math.min(limit, #ids)
  if told > 0 then looked = math.min(looked, told, within_slots(ids, MOST_SLOTS)) end
  load_tasks(ids)
  local text, size = int_text(step), num('open_size')
  local batch = key('batch:' .. text)
  for i = 1, looked do
    if size >= n then break end
    if cleared_enough() then
      looked = i - 1
      break
    end
    local t = tasks[ids[i]]
    if too_old(t.oldest) then
      stale_task(t)
    else
      t.state, t.step = 'B', text
      changed(t)
      zdel(READY, t.id)
      zput(batch, t.id, t.first)
      size = size + 1
      taken[#taken + 1] = t.id
      event('batch', t.id .. ' ' .. text .. ' ' .. t.oldest)
    end
  end
  if looked > 0 then
    set('open_size', size)
    flush()
  end
  return #ids > looked, taken
end

-- The digest of a batch: a hash of its step, its tasks and the numbers of their first claims, in order. (fakeredis has no sha1hex.)
local function digest_of(text)
  if redis.sha1hex then return redis.sha1hex(text) end
  local hash = 5381
  for i = 1, #text do hash = (hash * 33 + text:byte(i)) % 1099511627776 end
  return string.format('%x', hash)
end

local function seal_batch(step, size)
  local members = redis.call('ZRANGE', key('batch:' .. int_text(step)), 0, -1, 'WITHSCORES')
  local digest = digest_of(int_text(step) .. ' ' .. table.concat(members, ' '))
  hput(BATCHES, int_text(step), size .. ' ' .. digest)
  set('step_next', step + 1)
  set('open_size', 0)
  bump('accepted', math.max(batch_size(), size) - size)
  event('seal', table.concat({ int_text(step), size, digest }, ' '))
  return digest, members
end

return gated(FIELDS, function()
  refuse_while_recovering()
  local step, n = int_arg(FIRST_ARG, 'step', 0, MAX_INT), int_arg(FIRST_ARG + 1, 'n', 1, 1000000000)
  local limit = int_arg(FIRST_ARG + 2, 'limit', 0, 1000)
  local seal = ARGV[FIRST_ARG + 3] == '1'
  local most, bytes = int_arg(FIRST_ARG + 5, 'rows', 0, 1000), int_arg(FIRST_ARG + 6, 'bytes', 0, 1048576)
  if step < num('step_next') then return sealed_already(step) end
  if state.finished then fail('FINISHED', 'step', int_text(step)) end
  check_wanted(step, n)
  local may_grow = state.supply == 'more' -- a feeder is at work
  local short = not may_grow and (ARGV[FIRST_ARG + 4] == '1' or state.supply == 'done')
  Breaker.look(true)
  recheck_open_batch(step)
  local more, told = false, {}
  if limit > 0 then more, told = fill(step, n, limit, seal and 0 or most) end
  local n_taken = #told
  local size = num('open_size')
  local left = size + num('awaited')
  for _, name in ipairs({ PENDING, DELAYED, RUNNING, READY }) do left = left + redis.call('ZCARD', name) end
  local exhausted = left < n and not may_grow
  local digest = '-'
  local all_there_is = short and exhausted and size == left and size > 0
  if seal then told = {} end
  if seal and (size >= n or all_there_is) then
    local members
    digest, members = seal_batch(step, size)
    told = first_ids(members, most)
  end
  -- `want`: how many more rollouts the trainer waits for: until the batch is full or, with `short`, holds all tasks that are left.
  local whole = short and left > size and math.min(n, left) or n
  set('want', digest == '-' and math.max(0, whole - size) or 0)
  local answer = { size, digest ~= '-' and 1 or 0, exhausted and 1 or 0, left, more and 1 or 0, digest, n_taken,
    short and 1 or 0, state.halted and 1 or 0 }
  return table.concat(answer, ' '), most > 0 and #told > 0 and contents(told, bytes)
end)
