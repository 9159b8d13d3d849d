-- @include frame
-- @include defaults
-- The fields of the run's state hash. load_state reads them in one HMGET, scripts change them in memory, and flush() writes them in one HSET.

local state, state_changed = {}, {}
local oldest_good = nil -- the oldest version that is not too old; nil: not computed yet; -math.huge: no bound

local function field(name)
  local value = state[name]
  if value == nil then
    value = redis.call('HGET', STATE, name) or DEFAULTS[name] or false
    state[name] = value
  end
  return value
end

-- A field as a number: 0 if it is not stored, or empty. Arithmetic turns a text into a number at a third of the price of tonumber.
local function num(name)
  local value = state[name]
  if value == nil then value = field(name) end
  return value and value ~= '' and value + 0 or 0
end

local Run = {}

-- Refuses a run that is missing, or that has another schema.
Run.refuse_unknown = function(schema)
  if schema and schema ~= '1' then fail('SCHEMA', 'stored', schema, 'known', 1) end
  if not schema then fail('NORUN') end
end

-- Whether the run only counts rollouts that processes of another system hold: it has no tasks.
Run.is_admission = function() return field('admission') == '1' end

Run.refuse_admission = function()
  if Run.is_admission() then fail('CONFIG', 'field', 'kind', 'stored', 'admission', 'given', 'tasks') end
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
  return math.max(1, state.consumer_batch_size + 0)
end
