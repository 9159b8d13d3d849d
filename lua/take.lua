-- Fills the next batch from the oldest ready rollouts, and seals the batch when it is full.
-- Transition: ready -> batched; too old: ready -> pending or rejected; waited for too long: running -> pending, delayed or rejected; all died of the streak: dead -> pending
-- KEYS: state
-- ARGV: now, gate (3), step, n (rollouts wanted), limit (how many ready tasks to look at; 0: only seal), seal (1: seal when full), short (1: also seal if the batch holds all tasks that are left in the run, and no feeder will bring more), rows (most rows in the answer; with `seal` of the batch that it sealed; without, of the tasks that it took, and then it takes no more than that; 0: none), bytes (most bytes of results in the answer)
-- Returns: `size sealed exhausted left more digest sealed_at taken short halted due ...` (exhausted: fewer than n tasks are left, and no feeder will bring more; sealed_at: when the batch was sealed, on the run's clock, 0: it is not, or nobody noted it; taken: how many this call took; short: a batch of fewer than n is sealed when no more are left, as the caller asked or because the feeder is at its end; halted: 1 if the run is halted, and the batch was not sealed before; due: the first tasks that the batch waits for in the mode `wait`); if there are rows a list: that text, the rows as batch's, then the results of their samples in order (none if they have more than `bytes`)
-- Errors: gate's, RECOVERING, EARLY (step, step_next, version), TOOMANY (n, bound), GONE (step), FINISHED (step), BADARG
-- Bound: limit tasks; it stops resetting tasks that are too old when these have 1000 slots together (it finishes the last one); rows as batch; sealing reads the ids of the batch, n <= (S+1)*B; in the mode `wait` the first 1000 running tasks
-- Flags: allow-oom
-- @include gate
-- @include endings
-- @include rows
-- @include breaker
-- @include ages

local FIELDS = gate_and({ 'open_size', 'recheck', 'supply', 'streak', 'awaited' })

-- Answers a take of a batch that was sealed before: its size, its digest and when it was sealed.
local function sealed_already(step)
  local size, digest, at = Stored.sealed(step)
  return table.concat({ size, 1, 0, 0, 0, digest, at, 0, 0, 0 }, ' ')
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

-- Whether the batch may take a task whose oldest sample is of this version, and has places for all that must not come later.
local function may_enter(oldest, size)
  local newest = Staleness.bound(size, 1)
  return not newest or tonumber(oldest) <= newest
end

-- Moves ready tasks to the batch. Returns whether there are ready tasks that it did not look at and that may enter, the ids of the tasks that it took,
-- and the new records of these, by id. The records are edited as texts, because taking one apart and putting it together costs twice as much.
-- told: the most tasks to look at, because the answer has a row for each; together they have at most MOST_SLOTS slots. 0: no rows, no such bound.
local function fill(step, n, limit, told)
  local ids, taken, written, seen = redis.call('ZRANGE', READY, 0, limit), {}, {}, 0
  local records, looked = hmget(TASKS, ids), math.min(limit, #ids)
  if told > 0 then looked = math.min(looked, told) end
  local text, size, n_taken, members, fields = int_text(step), num('open_size'), 0, {}, {} -- what ZADD and HSET are to write
  for i = 1, looked do
    if size >= n and not Staleness.unsealable(size) then break end
    local id, before, samples, first, oldest, after = ids[i], Stored.ready(records[i])
    if told > 0 then seen = seen + samples end
    if cleared_enough() or (i > 1 and seen > MOST_SLOTS) then
      looked = i - 1
      break
    end
    if too_old(oldest) then
      tasks[id] = decode_task(id, records[i])
      stale_task(tasks[id])
    elseif may_enter(oldest, size) then
      Staleness.moved(oldest, '-1')
      local record, last = Stored.batched(before, text, after), 2 * n_taken + 2
      n_taken = n_taken + 1
      taken[n_taken], written[id] = id, record
      members[last - 1], members[last], fields[last - 1], fields[last] = first, id, id, record
      size = size + 1
      event('batch', id .. ' ' .. text .. ' ' .. oldest)
    end
  end
  if n_taken > 0 then
    call_in_pieces('ZREM', READY, taken)
    call_in_pieces('ZADD', key('batch:' .. text), members, 2)
    call_in_pieces('HSET', TASKS, fields, 2)
  end
  if looked > 0 then
    set('open_size', size)
    flush()
  end
  local following = records[looked + 1] and Stored.oldest(records[looked + 1])
  return following and (too_old(following) or may_enter(following, size)) or false, taken, written
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
  hput(BATCHES, int_text(step), size .. ' ' .. digest .. ' ' .. int_text(now))
  set('step_next', step + 1)
  set('open_size', 0)
  bump('accepted', math.max(batch_size(), size) - size)
  event('seal', table.concat({ int_text(step), size, digest }, ' '))
  return digest, members
end

local MOST_LOOKED, MOST_NAMED = 1000, 10

-- Begins, keeps or ends the wait of the batch for running tasks that no later batch could hold. Nobody waits for a batch that is formed ahead.
-- The wait is for tasks with samples of `version` or older that had started when it began. After max_wait_ms these are reset, and a wait for
-- the others begins. Returns the first ids of those that it waits for.
local function await(step, n, size)
  if not Staleness.waits() then return {} end
  local version = size < n and Staleness.bound(size, 1) or nil
  if size >= n or (size == 0 and not version) then version = Staleness.unsealable(size) end -- an empty batch: it keeps the step from being passed over
  if not version or step > num('version') or state.paused == 'paused' or state.halted then
    set('wait', '')
    return {}
  end
  local words, since, first, is_new = {}, now, num('first_seq'), true
  for word in (field('wait') or ''):gmatch('%d+') do words[#words + 1] = tonumber(word) end
  if words[1] == step and version <= words[3] then since, first, is_new = words[2], words[4], false end
  local ids, due, late = redis.call('ZRANGE', RUNNING, 0, MOST_LOOKED - 1), {}, now - since >= num('max_wait_ms')
  load_tasks(ids)
  for i = 1, #ids do
    local t = tasks[ids[i]]
    if t and tonumber(t.oldest) <= version then
      if late and tonumber(t.first) <= first and not cleared_enough() then
        bump('total_overdue', 1)
        stale_task(t)
      else
        due[#due + 1] = t.id
      end
    end
  end
  if #due == 0 and not late and #ids < MOST_LOOKED then Staleness.recount() end -- an earlier release shares the run, and does not count
  if late and not cleared_enough() then since, first, is_new = now, num('first_seq'), #due > 0 end
  local told = { unpack(due, 1, math.min(#due, MOST_NAMED)) }
  local head = table.concat({ int_text(step), int_text(since), int_text(version), int_text(first) }, ' ')
  if is_new then event('wait', table.concat({ int_text(step), int_text(version), unpack(told) }, ' ')) end
  set('wait', #due > 0 and table.concat({ head, unpack(told) }, ' ') or '')
  return told
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
  local more, told, written = false, {}, {}
  if limit > 0 then more, told, written = fill(step, n, limit, seal and 0 or most) end
  local n_taken = #told
  local size = num('open_size')
  local left = size + num('awaited')
  for _, name in ipairs({ PENDING, DELAYED, RUNNING, READY }) do left = left + redis.call('ZCARD', name) end
  local exhausted = left < n and not may_grow
  local digest = '-'
  local all_there_is = short and exhausted and size == left and size > 0
  if seal then told = {} end
  local held = Staleness.unsealable(size)
  local due = {}
  if seal and ((size >= n and not held) or all_there_is) then
    local members
    digest, members = seal_batch(step, size)
    told = first_ids(members, most)
    if Staleness.counts() then set('wait', '') end
  elseif limit > 0 and not more then
    due = await(step, n, size)
  end
  -- `want`: how many more rollouts the trainer waits for: until the batch is full or, with `short`, holds all tasks that are left.
  local whole = short and left > size and math.min(n, left) or n
  set('want', digest == '-' and math.max(held and 1 or 0, whole - size) or 0)
  local answer = { size, digest ~= '-' and 1 or 0, exhausted and 1 or 0, left, more and 1 or 0, digest,
    digest ~= '-' and int_text(now) or 0, n_taken, short and 1 or 0, state.halted and 1 or 0, unpack(due) }
  return table.concat(answer, ' '), most > 0 and #told > 0 and contents(told, bytes, written)
end)
