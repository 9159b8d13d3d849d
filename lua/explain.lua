-- Says who holds the slots and which timers are due: the facts behind `broker explain`.
-- Transition: none
-- KEYS: state
-- ARGV: now, limit (how many sessions and how many running tasks to look at), worker (its sessions alone are listed; empty: of all workers)
-- Returns: now, list of sessions (id, lease deadline, attempts held, reason of the last claim that got less than it asked for, length of the lease), list of held slots of the oldest running tasks (attempt, session, version, at, lease deadline of the session, tries, max_attempts, time-out in ms (0: none), 1 if the attempt before expired), next due (delayed, retries, time-outs, sessions; 0: none), first pending task, oldest ready task (or empty), totals (sessions counted, of these the ones with a live lease that hold a slot, slots held under live leases, slots held under leases that have passed), halt (empty: none, else after how many failures, when, names of the workers that failed, at most 100, then per task, the last to fail first and at most limit: id, session, at, error)
-- Errors: NORUN, SCHEMA, BADARG
-- Bound: limit sessions, limit tasks and their slots; where a worker is named, the first 10000 sessions are looked at; the totals take one ZCARD for each session, of the first 10000 sessions
-- Flags: no-writes
-- @include breaker

-- When a lease ends on the run's clock if its session stays silent, to show to people. A gap before this script counts in full. A script
-- that writes nothing does not move the lease clock, and if all workers are dead, no call that writes may come.
local function silent_from(at) return at < LEASE_ZERO and at or at - LEASE_ZERO + lag_before end

local MOST_COUNTED = 10000

-- Why the session's last claim got less than it asked for; '-': it got all; empty: the session has not claimed.
local function last_reason(call) return call and call:match('^%d+ %d+ (%S+)') or '' end

local function sessions_seen(limit, worker)
  local rows, ids, ends = {}, {}, {}
  local got = redis.call('ZRANGE', SESSIONS, 0, (worker == '' and limit or MOST_COUNTED) - 1, 'WITHSCORES')
  for i = 1, #got, 2 do
    if #ids < limit and (worker == '' or got[i]:match('^(.*)~') == worker) then
      ids[#ids + 1], ends[#ids + 1] = got[i], got[i + 1]
    end
  end
  local calls = hmget(CALLS, ids)
  for i = 1, #ids do
    local lease = (calls[i] or ''):match('^%d+ (%d+)') or '0'
    local deadline = int_text(silent_from(tonumber(ends[i])))
    rows[i] = { ids[i], deadline, redis.call('ZCARD', SESSION .. ids[i]), last_reason(calls[i]), lease }
  end
  return rows
end

local function totals()
  local got, busy, held, lost = redis.call('ZRANGE', SESSIONS, 0, MOST_COUNTED - 1, 'WITHSCORES'), 0, 0, 0
  for i = 1, #got, 2 do
    local holds = redis.call('ZCARD', SESSION .. got[i])
    if silent_from(tonumber(got[i + 1])) <= now then
      lost = lost + holds
    else
      held, busy = held + holds, busy + (holds > 0 and 1 or 0)
    end
  end
  return { #got / 2, busy, held, lost }
end

local function lease_of(session)
  return int_text(silent_from(tonumber(redis.call('ZSCORE', SESSIONS, session) or 0)))
end

local function slots_held(limit)
  local ids, rows = redis.call('ZRANGE', RUNNING, 0, limit - 1), {}
  load_tasks(ids)
  for i = 1, #ids do
    local t = tasks[ids[i]]
    load_slots_of(t)
    for k = 0, t.samples - 1 do
      local s = slot_of(t, k)
      if letter(t, k) == 'H' and #rows < limit then
        local most = TaskOptions.own(t, 'max_attempts') or num('max_attempts')
        local timeout = Timeouts.of(t, num('attempt_timeout_ms'))
        local again = s.why == 'expired' and 1 or 0
        rows[#rows + 1] = { attempt_id(t, k, s), s.session, s.version, s.at, lease_of(s.session), s.tries,
          int_text(most), int_text(timeout), again }
      end
    end
  end
  return rows
end

local MOST_NAMED = 100

-- What halted the run.
local function halt_seen(limit)
  if not state.halted then return {} end
  local entries, ids, seen, names = Breaker.read('halt'), {}, {}, {}
  for id in pairs(entries) do ids[#ids + 1] = id end
  table.sort(ids, function(a, b)
    local x, y = entries[a].at, entries[b].at
    return x > y or (x == y and a < b)
  end)
  for i = 1, #ids do
    local name = entries[ids[i]].session:match('^(.*)~')
    if not seen[name] and #names < MOST_NAMED then
      seen[name] = true
      names[#names + 1] = name
    end
  end
  local answer = { state.halted, field('halted_at'), names }
  for i = 1, math.min(limit, #ids) do
    local entry = entries[ids[i]]
    answer[#answer + 1] = { ids[i], entry.session, int_text(entry.at), entry.message }
  end
  return answer
end

return run(function()
  load_state()
  local limit, due = int_arg(2, 'limit', 1, 1000), {}
  for i, name in ipairs({ DELAYED, RETRIES, DEADLINES, SESSIONS }) do
    due[i] = int_text(Due.of(name, silent_from) or 0)
  end
  local first_pending, first_ready = redis.call('ZRANGE', PENDING, 0, 0)[1], redis.call('ZRANGE', READY, 0, 0)[1]
  return { int_text(now), sessions_seen(limit, ARGV[3]), slots_held(limit), due, first_pending or '', first_ready or '',
    totals(), halt_seen(limit) }
end)
