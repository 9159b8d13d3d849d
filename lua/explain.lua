-- Who holds the slots and what is due: the facts behind `broker explain`.
-- Transition: none
-- KEYS: state
-- ARGV: now, limit (of sessions and of running tasks looked at)
-- Returns: now, list of sessions (id, lease deadline, attempts held), list of held slots of the oldest running tasks (attempt, session, version, at), next due (delayed, retries, time-outs, sessions; 0: none), oldest pending task, oldest ready task (or empty)
-- Errors: NORUN, SCHEMA, BADARG
-- Bound: limit sessions, limit tasks and their slots
-- Flags: no-writes
-- @include records

local function sessions_seen(limit)
  local rows, got = {}, redis.call('ZRANGE', SESSIONS, 0, limit - 1, 'WITHSCORES')
  for i = 1, #got, 2 do
    rows[#rows + 1] = { got[i], int_text(got[i + 1]), redis.call('ZCARD', SESSION .. got[i]) }
  end
  return rows
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
        rows[#rows + 1] = { attempt_id(t, k, s), s.session, s.version, s.at }
      end
    end
  end
  return rows
end

return run(function()
  load_state()
  local limit, due = int_arg(2, 'limit', 1, 1000), {}
  for i, name in ipairs({ DELAYED, RETRIES, DEADLINES, SESSIONS }) do
    due[i] = redis.call('ZRANGE', name, 0, 0, 'WITHSCORES')[2] or '0'
  end
  return { int_text(now), sessions_seen(limit), slots_held(limit), due, redis.call('ZRANGE', PENDING, 0, 0)[1] or '',
    redis.call('ZRANGE', READY, 0, 0)[1] or '' }
end)
