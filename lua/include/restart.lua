-- @include tasks
-- Starts a dead or rejected task over: all its slots are open, and its tries, errors and stale requeues are 0.

-- samples, fixed: the task's new values; nil if they stay.
local function restart_task(t, samples, fixed)
  load_slots_of(t)
  for k = 0, t.samples - 1 do
    local s = slot_of(t, k)
    if s then
      s.tries, s.why = '0', letter(t, k) ~= 'D' and s.why ~= '' and s.why or 'revoked'
      slot_changed(t, k, s)
    end
  end
  leave_state(t)
  Failures.forget(t.id, true)
  if samples then t.samples, t.fixed = samples, fixed end
  local _, requeues = again_parts(t)
  set_again(t, 0, requeues + 1)
  t.letters, t.errors = string.rep('O', t.samples), '0'
  wait_again(t)
end

-- A finished run goes on: somebody has brought tasks.
local function reopen()
  if not state.finished then return end
  set('finished', '')
  state.finished = false
  Markers.arm_for_work()
  event('reopen', '-')
end
