-- @include timers
-- @include held_samples
-- The run's state at the beginning of a script, and what follows from it: capacity, staleness, the policies that survive.

-- The hot fields, which nearly every script needs, from the list of their stored values. Filling such a table in a loop costs three times as
-- much.
local function hot_fields(got)
  return {
    schema = got[1], clock = got[2], version = got[3], step_next = got[4], accepted = got[5],
    running = got[6], consumer_batch_size = got[7], max_concurrent_rollouts = got[8],
    max_staleness = got[9] or DEFAULTS.max_staleness, on_stale = got[10] or DEFAULTS.on_stale,
    paused = got[11], recovering = got[12], events_maxlen = got[13] or DEFAULTS.events_maxlen,
    version_epoch = got[14], clock_offset = got[15], lease_lag = got[16], shortest_lease = got[17],
    failing = got[18], faulted = got[19], halted = got[20], finished = got[21], ailing = got[22],
    staleness_limit = got[23], max_concurrent_samples = got[24] or DEFAULTS.max_concurrent_samples,
  }
end

-- The names of the hot fields, in the order of that list, and of more, for load_state. `hot`: how many are hot.
local function hot_and(more)
  local places, names = {}, {}
  for i = 1, 64 do places[i] = i end
  for name, i in pairs(hot_fields(places)) do names[i] = name end
  names.hot = #names
  for i = 1, #more do names[#names + 1] = more[i] end
  return names
end

local HOT = hot_and({})

-- Reads the fields `names`, which include the hot ones, and sets the clock. Refuses an unknown schema, and a missing run unless it may be missing.
-- A field that is not stored gets its default, or false, so that `field` does not read it again.
local function load_state(names, may_be_missing)
  names = names or HOT
  local got, defaults = redis.call('HMGET', STATE, unpack(names)), DEFAULTS
  local fields = hot_fields(got)
  for i = names.hot + 1, #names do
    local name = names[i]
    fields[name] = got[i] or defaults[name] or false
  end
  state = fields
  if state.schema or not may_be_missing then Run.refuse_unknown(state.schema) end
  if state.schema and not state.max_concurrent_rollouts then
    state.max_concurrent_rollouts = int_text(batch_size())
  end
  if state.halted == '' then state.halted = false end
  if state.finished == '' then state.finished = false end
  set_clock()
end

local Staleness = {}

-- Returns S, or nil if staleness has no bound.
Staleness.admitted = function()
  local s = state.max_staleness
  return s and s ~= '' and s + 0 or nil
end

-- Returns D, or nil if staleness has no bound. Where nobody gave it, it is a multiple of S. Earlier releases did not store it: there it is S.
Staleness.limit = function()
  local s, limit = Staleness.admitted(), state.staleness_limit
  if not s or not limit then return s end
  return math.max(s, tonumber(limit) or 4 * s)
end

-- Returns the two terms of AReaL's capacity formula (protocol, "Capacity"): by concurrency, of tasks or of samples, and by staleness (nil: no bound).
local function capacity_terms()
  local running, s, by_samples = state.running + 0, Staleness.admitted(), Samples.free()
  local by_concurrency = math.max(1, state.max_concurrent_rollouts + 0) - running
  if by_samples then by_concurrency = math.min(by_concurrency, by_samples) end
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
    local limit = state.on_stale ~= 'keep' and Staleness.limit()
    oldest_good = limit and num('step_next') - limit or -math.huge
  end
  return version + 0 < oldest_good
end

local given_policies = {} -- version -> epoch, as the checkpoint of a recovery says; empty in other scripts
local known_policies = nil -- `version epoch` -> whether it survives; the samples of one call share few policies

local function is_surviving(version, epoch)
  if version > num('version') then return false end
  if version == num('version') then return epoch == state.version_epoch end
  return (given_policies[version] or redis.call('HGET', POLICIES, int_text(version))) == epoch
end

-- Whether a policy survives: the run's history has its version, made by the same epoch. Versions above the run's are of a future that a recovery undid.
local function surviving(version, epoch)
  if version == state.version then return epoch == state.version_epoch end
  local policy = version .. ' ' .. epoch
  known_policies = known_policies or {}
  if known_policies[policy] == nil then known_policies[policy] = is_surviving(tonumber(version), epoch) end
  return known_policies[policy]
end
