-- Does a piece of a recovery: decides what becomes of each task given, and changes the task. The call may be repeated.
-- Transition: running -> pending or delayed; ready, batched, consumed, dead, rejected -> pending; batched, consumed -> ready; tasks that the checkpoint calls finished, or does not know -> forgotten; (none), listed -> waited for
-- KEYS: state
-- ARGV: now, gate (3), then per task: listed (1: the checkpoint lists it as unfinished), task
-- Returns: `done name count ...`: how many of the tasks were dealt with (the caller calls again with the rest), and counts of what became of them
-- Errors: gate's, EARLY (no recovery is under way), BADARG
-- Bound: the tasks given, at most 1000; it stops after the task that makes 64 slots
-- Flags: allow-oom
-- @include gate
-- @include attempts
-- @include recovery
-- @include awaited
-- @include restart
-- @include freed_ids

local FIELDS = gate_and({
  'finished_ids', 'recover_limit', 'recover_order', 'recover_lost', 'recover_listed', 'recover_in_flight', 'open_size',
  'awaited',
})

-- What becomes of a task that the walk comes to.
local Fates = {}

Fates.release_held = function(t)
  for k = 0, t.samples - 1 do
    if t.state == 'R' and letter(t, k) == 'H' then
      local s = slot_of(t, k)
      release_attempt(t, k, s)
      Markers.arm_session(s.session)
    end
  end
end

-- Deletes a task with its results.
Fates.forget_task = function(t)
  load_slots_of(t)
  clear_slots(t, 'revoked')
  leave_state(t)
  drop_records(t.id, t.samples)
end

Fates.back_to_ready = function(t)
  zdel(key('batch:' .. t.step), t.id)
  t.state, t.step = 'Y', '-1'
  zput(READY, t.id, Staleness.score(t))
  Staleness.moved('-1', t.oldest)
  changed(t)
  event('ready', t.id)
end

-- Recomputes the task's range of versions from its held and done samples: an attempt by a lost policy, released since, may have widened it.
Fates.mend_versions = function(t)
  if tonumber(t.newest) <= num('recovering') or not t.letters:find('[HD]') then return end
  local oldest, newest = math.huge, -1
  for k = 0, t.samples - 1 do
    local c, s = letter(t, k), slot_of(t, k)
    if c == 'H' or c == 'D' then
      oldest = math.min(oldest, tonumber(s.version))
      newest = math.max(newest, tonumber(s.newest))
    end
  end
  if t.state ~= 'B' then Staleness.moved(t.oldest, int_text(oldest)) end
  t.oldest, t.newest = int_text(oldest), int_text(newest)
  changed(t)
end

-- Whether a rollout of a lost batch finds a place in the steps that are left for it.
Fates.has_place = function(t)
  if not Staleness.waits() then return true end
  Fates.mend_versions(t)
  return Staleness.room(tonumber(t.oldest), 0) > 0
end

-- Remembers that a task is finished. The server knows this only from the checkpoint, so from now on the server is known from that checkpoint:
-- a recovery by an older checkpoint has to bring the task again.
Fates.remember_finished = function(id)
  add_finished(id, true)
  set('known_from', math.max(num('known_from'), num('recover_listed')))
  set('known_version', num('recovering'))
end

local missing = {} -- the tasks that the checkpoint lists and the server does not know

local function act(t, fate, id)
  if fate == 'missing' then
    missing[#missing + 1] = id
    return drop_finished(id)
  end
  local stays = fate == 'keep' or fate == 'ready'
  if stays and (t.state == 'R' or t.state == 'Y' or t.state == 'B') then Fates.mend_versions(t) end
  if fate == 'ready' then
    Fates.back_to_ready(t)
  elseif fate == 'release' then
    Fates.release_held(t)
  elseif fate == 'finished' or fate == 'dropped' then
    if fate == 'finished' then Fates.remember_finished(t.id) end -- the data loader may bring a dropped task again
    Fates.forget_task(t)
  elseif fate == 'pending' then
    if t.state == 'X' or t.state == 'J' then restart_task(t) else requeue_task(t, 'recovery') end
  end
end

return gated(FIELDS, function()
  if state.recovering == '' then fail('EARLY', 'recovering', 'no') end
  local answer = walk(FIRST_ARG, {
    version = num('recovering'),
    limit = num('recover_limit'),
    common = num('recover_order'),
    lost = state.recover_lost ~= '',
    by_cursor = state.recover_lost == 'cursor',
    has_place = Fates.has_place,
    requeue_in_flight = state.recover_in_flight == 'requeue',
  }, act)
  if #missing > 0 then Awaited.add(missing) end
  return answer
end)
