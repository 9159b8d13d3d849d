-- @include state
-- The markers that wake clients that wait on the server: workers, the trainer, sessions that lose an attempt.
-- A script notes whom its writes concern; flush() arms their markers at the end.

-- Whom to wake at the end. sessions: those that lose an attempt that they did not end themselves.
local arm = { workers = false, trainer = false, slot_opened = false, task_ended = false, sessions = {} }

-- The workers' marker is armed only where a claim could get something: an open slot, or a task and capacity. Paths that raise either say so.
local function arm_workers() arm.workers = true end
-- The trainer's: when enough rollouts are ready, or a task ended otherwise (fewer may be left than the trainer waits for).
local function arm_trainer(ended) arm.trainer, arm.task_ended = true, arm.task_ended or ended end
local function arm_for_open_slot() arm.workers, arm.slot_opened = true, true end
-- For rare calls of operators and trainers: the owners of an admission run listen too, although it has no tasks.
local function arm_anyway() arm_for_open_slot() end
-- A session's own marker: its heartbeat waits on it and renews at once, to be told which attempts to give up.
local function arm_session(id) arm.sessions[id] = true end

local function arm_markers()
  if arm.workers and state.paused ~= 'paused' then
    local is_useful = arm.slot_opened or (capacity() > 0 and redis.call('ZCARD', PENDING) > 0)
    if is_useful then redis.call('ZADD', WAKE, 0, '1') end
  end
  if arm.trainer then
    local want = num('want')
    local is_enough = want > 0 and (arm.task_ended or redis.call('ZCARD', READY) >= want)
    if is_enough then redis.call('ZADD', WAKE_READY, 0, '1') end
  end
  for id in pairs(arm.sessions) do
    redis.call('ZADD', REVOKED .. id, 0, '1')
    -- Long enough for a heartbeat to connect again; it then renews in any case.
    redis.call('PEXPIRE', REVOKED .. id, 60000)
  end
end

local function disarm_markers()
  arm = { workers = false, trainer = false, slot_opened = false, task_ended = false, sessions = {} }
end
