-- @include endings
-- @include breaker
-- @include quarantine
-- Transitions of one held slot whose attempt ends without a result or a verdict.

local function fail_slot_for_good(t, k)
  set_letter(t, k, 'F')
  t.errors = small_text(t.errors + 1)
end

-- An expiry or an error uses up one of the slot's max_attempts tries. Returns whether the slot may be tried again.
local function spend_try(t, k, s)
  local tries = s.tries + 1
  s.tries = small_text(tries)
  if tries < (TaskOptions.own(t, 'max_attempts') or num('max_attempts')) then return true end
  fail_slot_for_good(t, k)
  return false
end

-- Ends an attempt whose lease or time-out has passed.
-- among_others: its session lost several tasks at once. Most of them are not to blame: it costs no try where the slot's attempt before did
-- not expire too.
local function expire_attempt(t, k, s, among_others)
  local is_free = state.halted or (among_others and s.why ~= 'expired')
  end_hold(t, k, s, 'expired')
  Breaker.take(t, k, s, is_free and 0 or 1, 'the lease or the time-out of the attempt passed')
  if is_free or spend_try(t, k, s) then set_letter(t, k, 'O') end
  bump('total_expired', 1)
  end_check(t, 'expired')
end

-- The worker reports an error, of the task or its own. Returns 'retried' or 'failed'.
local function fail_attempt(t, k, s, message, may_retry, by_worker)
  local answer, why = 'failed', by_worker and 'fault' or 'failed'
  end_hold(t, k, s, why)
  local costs = not state.halted and (not by_worker or Failures.add(t, k, s.session, retry_at))
  local is_final = costs and not (may_retry or by_worker)
  Breaker.begin({ t.id }, '')
  Breaker.take(t, k, s, costs and not is_final and 1 or 0, message)
  Quarantine.failed(s.session, t.id)
  if not costs then
    answer = 'retried'
    set_letter(t, k, 'O')
  elseif is_final then
    fail_slot_for_good(t, k)
  elseif spend_try(t, k, s) then
    answer = 'retried'
    local at = retry_at(s.tries)
    if at then
      set_letter(t, k, 'W')
      local name = slot_name(t, k)
      new_retries[name] = at
      zput(RETRIES, name, at)
      due_at(at)
    else
      set_letter(t, k, 'O')
    end
  end
  bump(by_worker and 'total_faults' or 'total_failed', 1)
  end_check(t, why, message)
  return answer
end

local function release_attempt(t, k, s)
  end_hold(t, k, s, 'released')
  set_letter(t, k, 'O')
  bump('total_released', 1)
  end_check(t, 'released')
end

-- An attempt id is `task#slot.claims.random`.
local PATTERNS = { attempt = '^([^#]+)#(%d+)%.%d+%.%w+$', place = '^([^#]+)#(%d+)' }

-- Reads the tasks and slots that attempt ids name, in two HMGETs.
local function load_attempts(ids)
  local task_ids, names = {}, {}
  for i = 1, #ids do
    local task, number = ids[i]:match(PATTERNS.attempt)
    if not task then fail('BADARG', 'argument', 'attempt', 'given', ids[i]) end
    task_ids[i] = task
    if number ~= '0' then names[#names + 1] = task .. '#' .. number end
  end
  load_tasks(task_ids)
  load_slots(names)
end

-- Returns the task, slot number and slot record of an attempt id, whether that attempt holds the slot, and whether it is the slot's last one.
-- Both are decided by equality of the ids, never by their order.
local function holder(id)
  local task, number = id:match(PATTERNS.place)
  local t, k = tasks[task], tonumber(number)
  local s = t and k < t.samples and small_text(k) == number and slot_of(t, k)
  if not s then return nil, k, nil, false, false end
  local same = attempt_id(t, k, s) == id
  return t, k, s, same and letter(t, k) == 'H', same
end

-- Says why an attempt does not hold its slot: how it ended, `superseded` by a newer attempt, or `unknown`.
local function ended_why(id)
  local t, k, s, _, same = holder(id)
  if not t then return 'unknown' end
  if same then return letter(t, k) == 'D' and 'done' or (s.why ~= '' and s.why or 'unknown') end
  if tonumber(id:match('%.(%d+)%.%w+$')) < tonumber(s.claims) then return 'superseded' end
  return 'unknown'
end
