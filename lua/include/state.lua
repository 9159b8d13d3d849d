-- @include run
-- @include defaults
-- The run's state hash: read once in one HMGET, changed in memory, written in one HSET by flush().

local state, state_changed = {}, {}
local now = 0 -- the run's clock
local lease_lag = 0 -- how far the lease clock is behind it
local lag_before = 0 -- how far it was before this script
local lease_step = math.huge -- how far the lease clock advances at most between two scripts
local oldest_good = nil -- the oldest version that is not too old, once it is asked for; -math.huge: no bound

-- The hot fields, which nearly every script needs.
local HOT = {
  'schema', 'clock', 'version', 'step_next', 'accepted', 'running', 'consumer_batch_size', 'max_concurrent_rollouts',
  'max_staleness', 'on_stale', 'paused', 'recovering', 'due', 'want', 'events_maxlen', 'version_epoch', 'clock_offset',
  'lease_lag', 'shortest_lease', 'due_by_us',
}

-- The hot fields and others, for load_state.
local function hot_and(more)
  local names = {}
  for i = 1, #HOT do names[i] = HOT[i] end
  for i = 1, #more do names[#names + 1] = more[i] end
  return names
end

local function field(name)
  local value = state[name]
  if value == nil then
    value = redis.call('HGET', STATE, name) or DEFAULTS[name] or false
    state[name] = value
  end
  return value
end

local function num(name)
  return tonumber(field(name) or 0) or 0
end

local function set(name, value)
  if type(value) == 'number' then value = int_text(value) end
  state[name] = value
  state_changed[name] = value
  oldest_good = nil
end

-- Often called: the number is not turned into text here, as HSET does that.
local function bump(name, n)
  local value = state[name]
  value = (type(value) == 'number' and value or num(name)) + n
  state[name], state_changed[name] = value, value
end

local function batch_size()
  return math.max(1, tonumber(state.consumer_batch_size))
end

-- The run's clock is the server's time and an offset, and never goes back: where the server's clock steps back (as in a failover
-- to one that is behind) the offset grows by the step, once, and time goes on from where it stood.
-- Between two scripts the lease clock advances as far, but by a third of the shortest lease at most. Who is alive renews as often;
-- while the server is frozen or away, or its clock steps forward, nobody can, and leases lose that third, not the whole gap.
-- A clock injected as ARGV[1] is taken as it is, for leases too.
local function set_clock()
  local before = num('clock')
  lease_lag = num('lease_lag')
  lag_before = lease_lag
  if ARGV[1] ~= '' then
    now = math.max(before, int_arg(1, 'now', 1, 35184372088832))
  else
    local time, offset, shortest = redis.call('TIME'), num('clock_offset'), num('shortest_lease')
    local at = time[1] * 1000 + math.floor(time[2] / 1000) + offset
    now = math.max(before, at)
    if now > at then set('clock_offset', offset + now - at) end
    if shortest > 0 then lease_step = math.max(1, math.floor(shortest / 3)) end
    if now - before > lease_step then
      lease_lag = lease_lag + now - before - lease_step
      set('lease_lag', lease_lag)
    end
  end
  if now > before then set('clock', now) end
end

-- Deadlines of leases and attempts are stored on the lease clock, from LEASE_ZERO on. Smaller ones are of a release
-- that had only the run's clock; while it shares the run it takes those of this one for far away, and ends none of them.
local LEASE_ZERO = 70368744177664

-- The deadline of a lease of so many milliseconds that begins now.
local function lease_end(ms) return LEASE_ZERO + now - lease_lag + ms end

-- A stored deadline on the run's clock, if there is no gap until then.
local function run_time(at) return at < LEASE_ZERO and at or at - LEASE_ZERO + lease_lag end

-- When the first of a set's timers is due, on the run's clock (by run_time or silent_from); nil: there is none.
local function earliest(name, on_clock)
  local first
  for _, low in ipairs({ '-inf', LEASE_ZERO }) do
    local at = redis.call('ZRANGEBYSCORE', name, low, '+inf', 'WITHSCORES', 'LIMIT', 0, 1)[2]
    if at then first = math.min(first or math.huge, on_clock(tonumber(at))) end
  end
  return first
end

-- When the first timer of all is due, on the run's clock; 0: there is none.
local function first_due()
  local first = 0
  for _, name in ipairs({ DELAYED, RETRIES, DEADLINES, SESSIONS }) do
    local at = earliest(name, run_time)
    if at and (first == 0 or at < first) then first = at end
  end
  return first
end

-- Reads the fields given, the hot ones at least; refuses a missing run and an unknown schema, and sets the clock.
-- A field that is not stored has its default, else false, so that it is not read again.
local function load_state(names, may_be_missing)
  names = names or HOT
  local got = redis.call('HMGET', STATE, unpack(names))
  for i = 1, #names do state[names[i]] = got[i] or DEFAULTS[names[i]] or false end
  if state.schema ~= '1' then
    if state.schema then fail('SCHEMA', 'stored', state.schema, 'known', 1) end
    if not may_be_missing then fail('NORUN') end
  elseif not state.max_concurrent_rollouts then
    state.max_concurrent_rollouts = int_text(batch_size())
  end
  set_clock()
  if state.due ~= state.due_by_us then set('due', first_due()) end -- set by an earlier release, which does not know the leases of this one
end

-- S as a number, or nil for "no bound".
local function max_staleness()
  return tonumber(state.max_staleness or '')
end

-- The terms of AReaL's capacity formula (protocol, "Notation"): concurrency, staleness (nil: no bound).
local function capacity_terms()
  local running, s = tonumber(state.running), max_staleness()
  local by_concurrency = math.max(1, tonumber(state.max_concurrent_rollouts)) - running
  if not s then return by_concurrency, nil end
  return by_concurrency, (s + state.version + 1) * batch_size() - (state.accepted + running)
end

local function capacity()
  local by_concurrency, by_staleness = capacity_terms()
  return by_staleness and math.min(by_concurrency, by_staleness) or by_concurrency
end

-- Versions are numbers or their texts.
local function too_old(version)
  if not oldest_good then
    local s = state.on_stale ~= 'keep' and max_staleness()
    oldest_good = s and num('step_next') - s or -math.huge
  end
  return tonumber(version) < oldest_good
end

local given_policies = {} -- version -> epoch, what a checkpoint knows beyond the server (only a recovery sets it)
local known_policies = {} -- `version epoch` -> whether it survives: the samples of a call share few

local function is_surviving(version, epoch)
  if version > num('version') then return false end
  if version == num('version') then return epoch == state.version_epoch end
  return (given_policies[version] or redis.call('HGET', POLICIES, int_text(version))) == epoch
end

-- A policy survives when its version was made by that very epoch. Versions above the run's are of a future that a recovery undid.
local function surviving(version, epoch)
  if version == state.version then return epoch == state.version_epoch end
  local policy = version .. ' ' .. epoch
  if known_policies[policy] == nil then known_policies[policy] = is_surviving(tonumber(version), epoch) end
  return known_policies[policy]
end

-- Remembers that something is due at `at` on the run's clock: a lower bound (the lease clock only falls behind), so that claims
-- look at the timers only when one may have run out.
local function due_at(at)
  local due = num('due')
  if due == 0 or at < due then set('due', at) end
end
