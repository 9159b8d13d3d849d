-- The heartbeat: extends the lease and says which attempts to give up now, and why.
-- Transition: too old: running -> pending or rejected; held but not known to the worker: released
-- KEYS: state
-- ARGV: now, session, number (of the last claim whose answer the worker has), attempts held...
-- Returns: now, deadline, run_version, run_epoch, paused (empty: no), then attempt, why for each to give up
-- Errors: NORUN, SCHEMA, NOSESSION, BADARG
-- Bound: the attempts given, and 1000 that the worker does not know
-- Flags: allow-oom
-- @include attempts

-- Attempts of claims whose answer was lost for good: nobody works on them.
local function release_unknown(session, known)
  local held = redis.call('ZRANGE', SESSION .. session, 0, 999)
  local unknown = {}
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
  local ids, known, holding, stale, over = {}, {}, 0, {}, {}
  for i = 4, #ARGV do
    ids[i - 3] = ARGV[i]
    known[ARGV[i]] = true
  end
  load_attempts(ids)
  zput(SESSIONS, session, now + lease)
  for i = 1, #ids do
    local t, _, s, holds = holder(ids[i])
    if holds and s.session == session then
      holding = holding + 1
      if too_old(t.oldest) then stale[#stale + 1] = t end
    end
    if not holds or too_old(t.oldest) then over[#over + 1] = ids[i] end
  end
  for i = 1, #stale do
    if stale[i].state == 'R' and stale[i].oldest ~= '-1' then stale_task(stale[i]) end
  end
  if tonumber(last) == number and redis.call('ZCARD', SESSION .. session) > holding then
    release_unknown(session, known)
  end
  local answer = { int_text(now), int_text(now + lease), state.version, state.version_epoch, state.paused }
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
