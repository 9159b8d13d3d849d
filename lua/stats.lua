-- The numbers of a run.
-- Transition: none
-- KEYS: state
-- ARGV: now
-- Returns: pairs of name, value: the whole state hash but its blob and stored answer, with the defaults of config fields that it does not hold, `now`, `capacity`, and the size of every set, `n_lapsed`: the sessions that are silent for longer than a lease
-- Errors: NORUN, SCHEMA
-- Bound: constant
-- Flags: no-writes
-- @include admission_owners

local HIDDEN = { answer = true, blob = true, tokens = true, about = true }

-- How many of a set of leases have been silent for longer than they last: as silent_from.
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
  local leases = is_admission() and OWNER_LEASES or SESSIONS
  add('n_sessions', redis.call('ZCARD', leases))
  add('n_lapsed', count_silent(leases))
  add('n_tasks', redis.call('HLEN', TASKS))
  return answer
end)
