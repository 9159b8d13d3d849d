-- @include attempt_timeouts
-- @include lengths
-- @include result_bytes
-- @include waiting
-- Transitions of whole tasks. Each function changes a task record in the cache; flush() writes it.

-- Takes the task out of the set of its state and of the counter that counts it.
local function leave_state(t)
  if t.state == 'P' then
    zdel(PENDING, t.id)
  elseif t.state == 'D' then
    zdel(DELAYED, t.id)
  elseif t.state == 'R' then
    zdel(RUNNING, t.id)
    zdel(OPEN, t.id)
    bump('running', -1)
    Markers.arm_workers()
    Staleness.left(t)
  elseif t.state == 'Y' then
    zdel(READY, t.id)
    bump('accepted', -1)
    Markers.arm_workers()
    Staleness.left(t)
  elseif t.state == 'B' then -- of the unsealed batch, or in a recovery: else callers never move a task out of a sealed batch
    zdel(key('batch:' .. t.step), t.id)
    bump('open_size', -1)
    bump('accepted', -1)
    Markers.arm_workers()
  elseif t.state == 'X' then
    zdel(DEAD, t.id)
    hdel(REASONS, t.id)
  elseif t.state == 'J' then
    zdel(REJECTED, t.id)
    hdel(REASONS, t.id)
  end
end

-- The ends by which an attempt is taken from its worker.
local TAKEN_BACK = { expired = true, stale = true, revoked = true, cancelled = true, surplus = true }

-- Ends the attempt that holds slot k: its session and the deadlines lose the attempt, and the slot remembers why it ended. A worker
-- that did not end the attempt itself is told at once.
local function end_hold(t, k, s, why)
  local attempt = attempt_id(t, k, s)
  zdel(SESSION .. s.session, attempt)
  Timeouts.clear(attempt)
  Samples.gave_back()
  s.why = why
  slot_changed(t, k, s)
  if TAKEN_BACK[why] then Markers.arm_session(s.session) end
  event('ended', attempt .. ' ' .. why)
  Lengths.cut(attempt, s, why)
end

local cleared_slots = 0 -- how many slots the tasks have that this call cleared

-- Whether a call has cleared as many slots as it may. The next call deals with the tasks that are left.
local function cleared_enough() return cleared_slots >= 1000 end

local new_retries = {} -- slot -> until when it waits, of slots whose retry this call scheduled: RETRIES does not hold them yet

-- Clears the slots of a task: live attempts end with `why`, results are deleted, retries are unscheduled.
-- done_why: how the attempts of done slots ended, if these slots open again. Without done_why they stay done, as in a dead or rejected
-- task: a repeated submit gets the same answer. Returns the latest due time of a slot that waited for its backoff, or nil.
local function clear_slots(t, why, done_why)
  if not t.letters:find('[HDW]') then return nil end
  cleared_slots = cleared_slots + t.samples
  load_slots_of(t)
  local due
  for k = 0, t.samples - 1 do
    local c, s = letter(t, k), slot_of(t, k)
    if c == 'H' then
      end_hold(t, k, s, why)
    elseif c == 'D' then
      local attempt = attempt_id(t, k, s)
      ResultBytes.free(attempt)
      Lengths.thrown(attempt, s, why)
      if done_why then s.why = done_why end
      slot_changed(t, k, s)
    elseif c == 'W' then
      local name = slot_name(t, k)
      local at = new_retries[name] or tonumber(redis.call('ZSCORE', RETRIES, name) or 0)
      if not due or at > due then due = at end
      zdel(RETRIES, name)
    end
  end
  return due
end

local function wait_again(t, due)
  t.first, t.oldest, t.newest, t.step = '0', '-1', '-1', '-1'
  t.letters = t.letters:gsub('[HDWS]', 'O')
  if due and due > now then
    t.state = 'D'
    zput(DELAYED, t.id, due)
    due_at(due)
  else
    t.state = 'P'
    zput(PENDING, t.id, place(t))
    Markers.arm_workers()
  end
  changed(t)
end

-- running, ready or batched -> pending or delayed: the task's attempts are revoked, its results deleted.
local function requeue_task(t, why)
  local attempts_why = why == 'stale' and 'stale' or 'revoked'
  local due = clear_slots(t, attempts_why, attempts_why)
  leave_state(t)
  local stales, requeues = again_parts(t)
  set_again(t, stales, requeues + 1)
  wait_again(t, due)
  bump('total_requeued', 1)
  event('requeue', t.id .. ' ' .. why)
end
