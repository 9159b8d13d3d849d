-- @include tasks
-- How tasks end: dead, rejected, ready; and the checks after a slot has ended.

-- Moves a task from any state to dead ('X') or rejected ('J'). The task stays there unless it is retried or a recovery starts it over.
local function finish_task(t, final, reason, attempts_why)
  clear_slots(t, attempts_why)
  leave_state(t)
  Failures.forget(t.id, false)
  t.letters = t.letters:gsub('[HW]', 'O')
  t.state, t.step, t.oldest, t.newest = final, state.step_next, '-1', '-1'
  changed(t)
  local name, total, kind = REJECTED, 'total_rejected', 'rejected'
  if final == 'X' then name, total, kind = DEAD, 'total_dead', 'dead' end
  zput(name, t.id, now)
  hput(REASONS, t.id, reason)
  bump(total, 1)
  Markers.arm_workers()
  Markers.arm_trainer(true)
  event(kind, t.id .. ' ' .. escape(reason))
end

-- Resets a whole task that has a sample that is too old: back to waiting, or rejected, as on_stale says.
local function stale_task(t)
  bump('total_stale', 1)
  local stales, requeues = again_parts(t)
  if state.on_stale == 'drop' or stales + 1 > num('max_stale_requeues') then
    finish_task(t, 'J', 'stale', 'stale')
  else
    set_again(t, stales + 1, requeues)
    requeue_task(t, 'stale')
  end
end

-- running -> ready
local function ready_task(t)
  zdel(RUNNING, t.id)
  zput(READY, t.id, Staleness.score(t))
  Failures.forget(t.id, true)
  t.state = 'Y'
  changed(t)
  bump('running', -1)
  bump('accepted', 1)
  Markers.arm_workers()
  Markers.arm_trainer(false)
  event('ready', t.id)
end

-- Decides what becomes of a running task after one of its slots ended (protocol, end_check).
local function end_check(t, why, reason)
  local letters = t.letters
  if not letters:find('[^D]') then return ready_task(t) end
  local wanted = TaskOptions.own(t, 'enough')
  if wanted and select(2, letters:gsub('D', '')) >= wanted then
    -- Its other slots close, and their live attempts end as `surplus`.
    load_slots_of(t)
    for k = 0, t.samples - 1 do
      local c = letter(t, k)
      if c == 'H' then
        end_hold(t, k, slot_of(t, k), 'surplus')
        bump('total_surplus', 1)
      elseif c == 'W' then
        zdel(RETRIES, slot_name(t, k))
      end
    end
    zdel(OPEN, t.id)
    t.letters = t.letters:gsub('[OWH]', 'S')
    return ready_task(t)
  end
  local enough = true
  if letters:find('F', 1, true) then
    enough = t.samples - select(2, letters:gsub('F', '')) >= TaskOptions.of(t).min_samples
  end
  if not enough then
    finish_task(t, t.errors ~= '0' and 'X' or 'J', reason or why, 'revoked')
  elseif not letters:find('[OWH]') then
    ready_task(t)
  elseif not letters:find('[HD]') then
    requeue_task(t, why)
  elseif letters:find('O', 1, true) then
    zput(OPEN, t.id, place(t))
    Markers.arm_for_work()
  end
end
