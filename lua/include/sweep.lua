-- @include attempts
-- Takes back what is due: retries, attempts past their time-out, sessions past their lease. A call takes back at most `limit` of each.
-- It also stops when the tasks that ended or went back with it have 1000 slots together (it finishes the last of these tasks).

local function due_members(name, limit)
  return redis.call('ZRANGEBYSCORE', name, '-inf', now, 'LIMIT', 0, limit)
end

-- The due members of a set of deadlines: first those that an earlier release stored on the run's clock, then those on the lease clock.
local function due_leases(name, limit)
  local ids = due_members(name, limit)
  if #ids == limit then return ids end
  local more = redis.call('ZRANGEBYSCORE', name, LEASE_ZERO, lease_end(0), 'LIMIT', 0, limit - #ids)
  for i = 1, #more do ids[#ids + 1] = more[i] end
  return ids
end

-- delayed -> pending
local function promote_tasks(ids)
  load_tasks(ids)
  for i = 1, #ids do
    local t = tasks[ids[i]]
    zdel(DELAYED, ids[i])
    if t and t.state == 'D' then
      t.state = 'P'
      changed(t)
      zput(PENDING, t.id, place(t))
      Markers.arm_workers()
    end
  end
  return #ids
end

-- W -> O: one slot of a running task.
local function promote_slots(names)
  local ids = {}
  for i = 1, #names do ids[i] = names[i]:match('^[^#]+') end
  load_tasks(ids)
  for i = 1, #names do
    local t, k = tasks[ids[i]], tonumber(names[i]:match('#(%d+)$'))
    zdel(RETRIES, names[i])
    if t and t.state == 'R' and letter(t, k) == 'W' then
      set_letter(t, k, 'O')
      zput(OPEN, t.id, place(t))
      Markers.arm_for_work()
    end
  end
  return #names
end

-- Whether a session loses attempts of several tasks at once: of these tasks, or with the piece of its attempts before.
local function lost_several(ids, session)
  local several = field('lost_several') == session
  for i = 2, #ids do several = several or ids[i] ~= ids[1] end
  if several then set('lost_several', session) end
  return several
end

-- Expires the given attempts of the set `name`, in their order. session: the one whose lease passed, if it did. Returns how many held their slot, and how many it dealt with.
local function expire_all(name, attempts, session)
  load_attempts(attempts)
  local several = false
  if session then
    local ids = {}
    for i = 1, #attempts do ids[i] = attempts[i]:match('^[^#]+') end
    several = lost_several(ids, session)
    Breaker.begin(ids, session)
  end
  local n = 0
  for i = 1, #attempts do
    if cleared_enough() then return n, i - 1 end
    zdel(name, attempts[i])
    local t, k, s, holds = holder(attempts[i])
    if holds then
      if not session then Breaker.begin({ t.id }, '') end
      expire_attempt(t, k, s, several)
      if not session then Quarantine.failed(s.session, t.id) end
      n = n + 1
    end
  end
  return n, #attempts
end

local function forget_session(id, why)
  zdel(SESSIONS, id)
  zdel(LEASES, id)
  hdel(CALLS, id)
  Quarantine.forget(id)
  event('leave', id .. ' ' .. why)
end

-- Expires sessions, in the order of their deadlines. A session of which attempts are left stays due for the next sweep.
local function expire_sessions(limit)
  local n, ids = 0, due_leases(SESSIONS, limit)
  for i = 1, #ids do
    if n >= limit or cleared_enough() then break end
    local held = redis.call('ZRANGE', SESSION .. ids[i], 0, limit - n - 1)
    local all = redis.call('ZCARD', SESSION .. ids[i]) == #held
    local looked = 0
    if #held > 0 then looked = select(2, expire_all(SESSION .. ids[i], held, ids[i])) end
    n = n + math.max(1, looked)
    if all and looked == #held then forget_session(ids[i], 'expired') end
  end
  return n
end

local function is_due()
  local first = Due.stored()
  return first > 0 and first <= now
end

-- Runs the sweep if anything may be due, writes it, and returns how many things it took back.
local function sweep(limit)
  if not is_due() then return 0 end
  local n = promote_tasks(due_members(DELAYED, limit)) + promote_slots(due_members(RETRIES, limit))
  flush()
  n = n + (expire_all(DEADLINES, due_leases(DEADLINES, limit)))
  flush()
  n = n + expire_sessions(limit)
  flush()
  Breaker.look()
  set('due', Due.first())
  cleared_slots = 0 -- a claim goes on after the sweep, with its own bound of slots
  return n
end
