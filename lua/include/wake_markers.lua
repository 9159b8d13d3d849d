-- @include state
-- The markers that wake clients that wait on the server: workers, the trainer, sessions that lose an attempt, owners that wait for a slot.
-- A script notes whom its writes concern; flush() arms the markers at the end.

local NOBODY = {}

-- Whose markers flush() arms: what the functions below note.
-- sessions: those that lose an attempt without having ended it themselves. owners: of an admission run. Both are nil while there are none.
local arm = {}
local Markers = {}

-- For scripts that add pending tasks or raise capacity. The workers' marker is armed only if a claim could get work: an open slot, or a
-- pending task within capacity.
Markers.arm_workers = function() arm.workers = true end
-- The trainer's marker is armed if it waits and enough rollouts are ready. It is also armed if a task ended dead or rejected: then fewer tasks
-- may be left than the trainer waits for.
Markers.arm_trainer = function(ended) arm.trainer, arm.task_ended = true, arm.task_ended or ended end
-- The caller has seen work that a claim could get: an open slot, or a pending task within capacity.
Markers.arm_for_work = function() arm.workers, arm.has_work = true, true end
-- Arms the workers' marker again after a claim, if the claim leaves work that another worker could claim: so one wake-up passes from worker
-- to worker. still_open, still_pending: whether the claim leaves open slots, and pending tasks.
Markers.pass_on = function(still_open, still_pending)
  if still_open then Markers.arm_for_work() end
  if still_pending and capacity() > 0 then Markers.arm_for_work() end
end
-- Arms the workers' marker whether or not there is work, unless the run is paused: for pause, resume, repair and the end of a recovery.
-- The owners of an admission run wait on this marker too, and such a run has no tasks.
Markers.arm_anyway = function() Markers.arm_for_work() end
-- Arms the workers' marker in any case: the run is finished, and each worker that waits has to be told.
Markers.arm_finished = function() arm.finished = true end
-- Arms a session's own marker. The heartbeat waits on the marker and renews at once: the answer says which attempts to give up.
Markers.arm_session = function(id)
  arm.sessions = arm.sessions or {}
  arm.sessions[id] = true
end
-- Arms the marker of an owner that waits for a slot.
Markers.arm_owner = function(id)
  arm.owners = arm.owners or {}
  arm.owners[id] = true
end

local function arm_markers()
  if arm.finished then redis.call('ZADD', WAKE, 0, '1') end
  local free = Samples.free()
  if (arm.workers or Samples.freed) and state.paused ~= 'paused' and not state.halted and (not free or free > 0) then
    local is_useful = arm.has_work or (capacity() > 0 and redis.call('ZCARD', PENDING) > 0)
      or (free and redis.call('ZCARD', OPEN) > 0)
    if is_useful then redis.call('ZADD', WAKE, 0, '1') end
  end
  if arm.trainer then
    local want = num('want')
    local is_enough = want > 0 and (arm.task_ended or redis.call('ZCARD', READY) >= want)
    if is_enough then redis.call('ZADD', WAKE_READY, 0, '1') end
  end
  for id in next, arm.sessions or NOBODY do
    redis.call('ZADD', REVOKED .. id, 0, '1')
    -- The marker outlives a heartbeat's reconnection; after that the heartbeat renews in any case.
    redis.call('PEXPIRE', REVOKED .. id, 60000)
  end
  for id in next, arm.owners or NOBODY do redis.call('ZADD', WAKE .. ':owner:' .. id, 0, '1') end
end

Markers.disarm = function()
  arm = {}
end
