-- @include result_bytes
-- Decides what a recovery to version r does with a task. The caller of `walk` carries the decision out: recover_sweep changes the task,
-- recover_preview does nothing. The state's `version` and `step_next` are r from the beginning of the recovery on.

-- Whether all held and done samples are by surviving policies, and the results of the done ones are there. If not, also says which is missing.
local function samples_good(t)
  for k = 0, t.samples - 1 do
    local c, s = letter(t, k), slot_of(t, k)
    if c == 'H' or c == 'D' then
      if not surviving(s.version, s.epoch) or not surviving(s.newest, s.newest_epoch) then
        return false, 'lost_policy'
      end
    end
  end
  if not ResultBytes.are_there(t) then return false, 'bytes_gone' end
  return true
end

-- Returns what becomes of task t, a word, and the cause if the task starts over or its held slots are released.
--   consumed (by a step below `limit`, which survives); keep; ready (leaves the batch of a lost step); pending; release (its held slots);
--   finished (the checkpoint says that it is, and the server forgot); dropped (of a history that the checkpoint does not know)
-- to: the facts of plan_of, requeue_in_flight, and has_place (nil: every rollout of a lost batch has one). listed: whether the checkpoint lists the task as unfinished (nil: there is no list).
local function recovered_fate(t, to, listed)
  local parts = TaskOptions.of(t)
  local order, born = parts.order, parts.born
  local forgot = to.limit < to.version -- the server lost steps of the checkpoint's history
  -- The checkpoint's history may have consumed a task that was retried on this server. So the number of its enqueue decides, not of its retry.
  if forgot then order = born end
  local foreign = to.lost and born > to.common -- enqueued after the histories parted, perhaps in both
  if foreign and to.by_cursor and not listed then return 'dropped' end
  local known = order <= to.common -- the task existed in both histories when the checkpoint was made
  local parted = listed ~= nil and forgot and born > to.common -- no surviving step can have consumed the task
  local step = tonumber(t.step)
  if t.state == 'B' and step < to.limit and not parted and not (known and listed) then return 'consumed' end
  if t.state == 'X' or t.state == 'J' then
    if known and not listed and forgot then return 'finished' end
    local again = step >= to.version or parted
    if known then again = listed end
    if again then return 'pending', t.state == 'X' and 'dead' or 'discarded' end
    return 'keep'
  end
  -- order ~= born here: an operator retried the task after a failover, on a server that lost no step. The retry's number is one that the
  -- checkpoint knows too. The server knows all surviving steps, and none consumed the task: it stays unfinished. (On a server that lost
  -- steps, order is born by the line above.)
  if known and not listed and order == born then return 'finished' end
  if t.state == 'P' or t.state == 'D' then return 'keep' end
  load_slots_of(t)
  local good, cause = samples_good(t)
  if not good then return 'pending', t.state == 'B' and 'lost_step' or cause end
  if t.state == 'B' then
    if to.has_place and not to.has_place(t) then return 'pending', 'no_place' end
    return 'ready'
  end
  if t.state == 'R' and to.requeue_in_flight and t.letters:find('H', 1, true) then return 'release', 'in_flight' end
  return 'keep'
end

local SLOTS_PER_CALL = 64
local counts = {}

local function count(name, n) counts[name] = (counts[name] or 0) + n end

local function letters_of(t, c) return select(2, t.letters:gsub(c, '')) end

-- Counts a task's fate: its cause, its attempts and results that are kept or not, and whether it is running or ready afterwards.
local function tally(t, fate, cause)
  local held, done = letters_of(t, 'H'), letters_of(t, 'D')
  if cause then count(cause, 1) end
  local forgotten = fate == 'finished' or fate == 'dropped'
  if forgotten then count(fate, 1) end
  if t.state == 'X' or t.state == 'J' or forgotten then return end
  count((fate == 'keep' or fate == 'ready') and 'attempts_kept' or 'attempts_revoked', held)
  count(fate == 'pending' and 'results_dropped' or 'results_kept', done)
  if fate == 'ready' then count('ready_again', 1) end
  if fate == 'ready' or (fate == 'keep' and t.state == 'Y') then count('ready', 1) end
  if t.state == 'R' and (fate == 'keep' or (fate == 'release' and done > 0)) then count('running', 1) end
end

-- Decides for each task that the arguments from `first` on name (listed, task, listed, task ...), counts the fates, and calls
-- apply(task, fate). For a listed task that the server does not have, it calls apply(nil, 'missing', id).
-- Returns the answer: how many of the tasks it dealt with, then the counts.
local function walk(first, to, apply)
  local ids, looked, answer = {}, 0, { 0 }
  for i = first + 1, #ARGV, 2 do ids[#ids + 1] = ARGV[i] end
  if #ids > 1000 then fail('BADARG', 'argument', 'tasks', 'given', #ids, 'high', 1000) end
  load_tasks(ids)
  for i = 1, #ids do
    if looked >= SLOTS_PER_CALL then break end
    local t, listed = tasks[ids[i]], nil
    if to.common >= 0 then listed = ARGV[first + 2 * (i - 1)] == '1' end
    if t then
      local fate, cause = recovered_fate(t, to, listed)
      if fate ~= 'consumed' then tally(t, fate, cause) end
      looked = looked + (t.letters:find('[^O]') and t.samples or 1)
      apply(t, fate)
    elseif listed then
      apply(nil, 'missing', ids[i])
    end
    answer[1] = i
  end
  for name, n in pairs(counts) do
    answer[#answer + 1] = name
    answer[#answer + 1] = n
  end
  return table.concat(answer, ' ')
end
