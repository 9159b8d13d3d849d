-- The heartbeat: extends the session's lease, and says which attempts the worker has to give up, and why.
-- Transition: too old: running -> pending, delayed or rejected; held, but the worker does not know the attempt: released
-- KEYS: state
-- ARGV: now, session, number (of the last claim whose answer the worker has, or no longer waits for), attempts held...
-- Returns: now, deadline, run_version, run_epoch, paused (`paused`, `draining` or `finished`; empty: no), then attempt, why for each attempt to give up
-- Errors: NORUN, SCHEMA, NOSESSION, BADARG
-- Bound: the attempts given, and about 1000 that the worker does not know
-- Flags: allow-oom
-- @include attempts

-- Returns the scores of the attempts in the session's set (no score: the attempt does not hold its slot), and the stored records of their tasks.
local function look_up(session, ids)
  local names = {}
  for i = 1, #ids do
    names[i] = ids[i]:match('^([^#]+)#%d+%.%d+%.%w+$')
    if not names[i] then fail('BADARG', 'argument', 'attempt', 'given', ids[i]) end
  end
  if #ids == 0 then return {}, {} end
  local scores = {}
  for from = 1, #ids, 1000 do
    local got = redis.call('ZMSCORE', SESSION .. session, unpack(ids, from, math.min(from + 999, #ids)))
    for i = 1, #got do scores[from + i - 1] = got[i] end
  end
  return scores, hmget(TASKS, names)
end

-- Releases attempts of claims whose answers were lost for good: no worker works on them.
local function release_unknown(session, ids)
  local held, known, unknown = redis.call('ZRANGE', SESSION .. session, 0, #ids + 999), {}, {}
  for i = 1, #ids do known[ids[i]] = true end
  for i = 1, #held do
    if not known[held[i]] then unknown[#unknown + 1] = held[i] end
  end
  load_attempts(unknown)
  for i = 1, #unknown do
    local t, k, s, holds = holder(unknown[i])
    if holds then release_attempt(t, k, s) end
  end
end

return run(function()
  load_state()
  local session, number = ARGV[2], int_arg(3, 'number', 0, MAX_INT)
  local call = redis.call('HGET', CALLS, session)
  if not call then fail('NOSESSION', 'session', session) end
  local last, lease = call:match('^(%d+) (%d+)')
  local ids, over, holding = {}, {}, 0 -- over: the attempts that the session lost, or whose task is too old
  for i = 4, #ARGV do ids[i - 3] = ARGV[i] end
  local scores, records = look_up(session, ids)
  zput(SESSIONS, session, lease_end(lease))
  for i = 1, #ids do
    if scores[i] then holding = holding + 1 end
    if not scores[i] or not records[i] or too_old(Stored.oldest(records[i])) then over[#over + 1] = ids[i] end
  end
  load_attempts(over)
  for i = 1, #over do
    local t, _, s, holds = holder(over[i])
    if holds and s.session == session and too_old(t.oldest) then stale_task(t) end
  end
  if tonumber(last) <= number and redis.call('ZCARD', SESSION .. session) > holding then
    release_unknown(session, ids)
  end
  local answer = { int_text(now), int_text(now + lease), state.version, state.version_epoch,
    state.finished and 'finished' or state.paused }
  for i = 1, #over do
    local _, _, _, holds = holder(over[i])
    local why = holds and 'done' or ended_why(over[i])
    if why ~= 'done' then
      answer[#answer + 1] = over[i]
      answer[#answer + 1] = why
    end
  end
  flush()
  return answer
end)
