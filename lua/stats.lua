-- Reads the numbers of a run.
-- Transition: none
-- KEYS: state
-- ARGV: now
-- Returns: pairs of name, value: the whole state hash except its blob, tokens, description and stored answer; the defaults of config fields that it does not store; `time_b` for each bucket b of `times` (submit.lua); `now`, `capacity`, the size of each set, `n_lapsed`: the sessions that have been silent for longer than their lease, `n_quarantined`, and `quarantined`: `session ms ...`, the first 20 of them and for how much longer
-- Errors: NORUN, SCHEMA
-- Bound: constant
-- Flags: no-writes
-- @include admission_owners
-- @include quarantine

local MOST_NAMED = 20
local HIDDEN = { answer = true, blob = true, tokens = true, about = true }

-- How many sessions of a set of leases have been silent for longer than their lease, by the rule of silent_from in explain.lua.
local function count_silent(name)
  return redis.call('ZCOUNT', name, '-inf', int_text(now))
    + redis.call('ZCOUNT', name, LEASE_ZERO, int_text(LEASE_ZERO + now - lag_before))
end

return run(function()
  load_state()
  local answer, all, stored = {}, redis.call('HGETALL', STATE), {}
  for i = 1, #all, 2 do
    stored[all[i]] = true
    if not HIDDEN[all[i]] then
      answer[#answer + 1] = all[i]
      answer[#answer + 1] = all[i + 1]
    end
  end
  for name, value in pairs(DEFAULTS) do
    if not stored[name] then
      answer[#answer + 1] = name
      answer[#answer + 1] = value
    end
  end
  local times = redis.call('HGETALL', key('times'))
  for i = 1, #times, 2 do
    answer[#answer + 1] = 'time_' .. times[i]
    answer[#answer + 1] = times[i + 1]
  end
  local function add(name, value)
    answer[#answer + 1] = name
    answer[#answer + 1] = int_text(value)
  end
  add('now', now)
  add('capacity', capacity())
  for name, set_key in pairs({ pending = PENDING, delayed = DELAYED, retries = RETRIES, open = OPEN, ready = READY,
    in_running = RUNNING, dead = DEAD, rejected = REJECTED }) do
    add('n_' .. name, redis.call('ZCARD', set_key))
  end
  local leases = Run.is_admission() and OWNER_LEASES or SESSIONS
  add('n_sessions', redis.call('ZCARD', leases))
  add('n_lapsed', count_silent(leases))
  add('n_quarantined', Quarantine.count())
  answer[#answer + 1] = 'quarantined'
  answer[#answer + 1] = Quarantine.told(MOST_NAMED)
  add('n_tasks', redis.call('HLEN', TASKS))
  return answer
end)
