-- @include run
-- @include defaults
-- The run's state hash. load_state reads its fields in one HMGET, scripts change them in memory, and flush() writes them in one HSET.

local state, state_changed = {}, {}
local now = 0 -- the run's clock
local lease_lag = 0 -- by how many ms the lease clock is behind the run's clock
local lag_before = 0 -- the lease_lag before this script
local lease_step = math.huge -- by how many ms the lease clock may advance between two scripts
local oldest_good = nil -- the oldest version that is not too old; nil: not computed yet; -math.huge: no bound

-- The hot fields, which nearly every script needs.
local HOT = {
  'schema', 'clock', 'version', 'step_next', 'accepted', 'running', 'consumer_batch_size', 'max_concurrent_rollouts',
  'max_staleness', 'on_stale', 'paused', 'recovering', 'due', 'want', 'events_maxlen', 'version_epoch', 'clock_offset',
  'lease_lag', 'shortest_lease', 'due_by_us', 'failing', 'faulted',
  'halted', 'finished', 'ailing',
}

-- The names of the hot fields and of more, for load_state.
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

-- Whether the run only counts rollouts that processes of another system hold: it has no tasks.
local function is_admission() return field('admission') == '1' end

local function refuse_admission()
  if is_admission() then fail('CONFIG', 'field', 'kind', 'stored', 'admission', 'given', 'tasks') end
end

local function set(name, value)
  if type(value) == 'number' then value = int_text(value) end
  state[name] = value
  state_changed[name] = value
  oldest_good = nil
end

-- bump is called often, so it leaves the number a number: HSET turns it into text.
local function bump(name, n)
  local value = state[name]
  value = (type(value) == 'number' and value or num(name)) + n
  state[name], state_changed[name] = value, value
end

local function batch_size()
  return math.max(1, tonumber(state.consumer_batch_size))
end

-- Sets the run's clock and the lease clock.
-- The run's clock is the server's time plus an offset, and never goes back. When the server's clock steps back (for example in a failover
-- to a server whose clock is behind), the offset grows by that step, once, and time goes on from where it stood.
-- Between two scripts the lease clock advances with the run's clock, but by at most a third of the shortest lease. A live worker renews
-- three times within its lease. While the server is frozen or absent, or when its clock steps forward, no worker can renew. Then
-- each lease loses that third, not the whole gap.
-- If ARGV[1] gives the time, that is the run's clock (unless a later time was seen), and the lease clock has no such bound.
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

-- Deadlines of sessions and attempts are stored as LEASE_ZERO plus the lease clock. A smaller deadline was stored by a release that had
-- only the run's clock. While such a release shares the run, it takes the deadlines of this release to be far away, and ends none of them.
local LEASE_ZERO = 70368744177664

-- The deadline of a lease of `ms` milliseconds that begins now.
local function lease_end(ms) return LEASE_ZERO + now - lease_lag + ms end

-- When a stored deadline passes, on the run's clock, if the lease clock does not fall further behind until then.
local function run_time(at) return at < LEASE_ZERO and at or at - LEASE_ZERO + lease_lag end

-- When the first timer of the set `name` is due, on the run's clock; nil: the set is empty. on_clock: run_time or silent_from.
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

-- Reads the fields `names`, which include the hot ones, and sets the clock. Refuses an unknown schema, and a missing run unless it may be missing.
-- A field that is not stored gets its default, or false, so that `field` does not read it again.
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
  if state.halted == '' then state.halted = false end
  if state.finished == '' then state.finished = false end
  set_clock()
  if state.due ~= state.due_by_us then set('due', first_due()) end -- an earlier release stored `due`, and does not know the leases of this release
end

-- Returns S, or nil if staleness has no bound.
local function max_staleness()
  return tonumber(state.max_staleness or '')
end

-- Returns the two terms of AReaL's capacity formula (protocol, "Capacity"): by concurrency, and by staleness (nil: no bound).
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

-- Whether a version, a number or its text, is too old for the next step.
local function too_old(version)
  if not oldest_good then
    local s = state.on_stale ~= 'keep' and max_staleness()
    oldest_good = s and num('step_next') - s or -math.huge
  end
  return tonumber(version) < oldest_good
end

local given_policies = {} -- version -> epoch, as the checkpoint of a recovery says; empty in other scripts
local known_policies = {} -- `version epoch` -> whether it survives; the samples of one call share few policies

local function is_surviving(version, epoch)
  if version > num('version') then return false end
  if version == num('version') then return epoch == state.version_epoch end
  return (given_policies[version] or redis.call('HGET', POLICIES, int_text(version))) == epoch
end

-- Whether a policy survives: the run's history has its version, made by the same epoch. Versions above the run's are of a future that a recovery undid.
local function surviving(version, epoch)
  if version == state.version then return epoch == state.version_epoch end
  local policy = version .. ' ' .. epoch
  if known_policies[policy] == nil then known_policies[policy] = is_surviving(tonumber(version), epoch) end
  return known_policies[policy]
end

-- Remembers that a timer is due at `at`, on the run's clock. `due` is a lower bound, because the lease clock can only fall further behind.
-- Claims look at the timers only once `due` has passed.
local function due_at(at)
  local due = num('due')
  if due == 0 or at < due then set('due', at) end
end
