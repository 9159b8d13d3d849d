-- The frame of every script: key names, the error reply, argument checks.
-- KEYS[1] is the run's state key `rb1:{<run>}:state`; every other key of the run has the same prefix and so the same hash slot.

local PREFIX = KEYS[1]:sub(1, -6)

local function key(name)
  return PREFIX .. name
end

local STATE, TASKS, SLOTS, PAYLOADS, REASONS =
  KEYS[1], key('tasks'), key('slots'), key('payloads'), key('reasons')
local PENDING, DELAYED, OPEN, RUNNING, READY =
  key('pending'), key('delayed'), key('open'), key('running'), key('ready')
local RETRIES, SESSIONS, CALLS, DEADLINES = key('retries'), key('sessions'), key('calls'), key('deadlines')
local LEASES = key('leases') -- the length of the lease of each session that has not ended
local DEAD, REJECTED, BATCHES, POLICIES = key('dead'), key('rejected'), key('batches'), key('policies')
local EVENTS, WAKE, WAKE_READY = key('events'), key('wake'), key('wake:ready')
local SESSION, RESULT, REVOKED = key('session:'), key('result:'), key('revoked:') -- prefixes of keys

-- `%d` is faster than `%.0f`, but exact only if a C long has 64 bits.
local INT_FORMAT = string.format('%d', 1099511627776) == '1099511627776' and '%d' or '%.0f'

-- Integers as text, exact up to 2^53 (tostring would give an exponent from 1e14 on).
-- Commands take numbers as they are: servers write them exactly.
local function int_text(n)
  return string.format(INT_FORMAT, n)
end

local SMALL = {} -- the texts of small numbers: formatting one costs as much as a command

local function small_text(n)
  local text = SMALL[n]
  if not text then
    text = int_text(n)
    if n >= 0 and n < 1024 then SMALL[n] = text end
  end
  return text
end

local function escape(value)
  return (tostring(value):gsub('[^%w%._:/@+#~,-]', function(c)
    return string.format('%%%02X', c:byte())
  end))
end

-- Ends the script with the error reply `CODE name=value ...`. Must not be called after the script's first write.
local function fail(code, ...)
  local text, pairs_given = { code }, { ... }
  for i = 1, #pairs_given, 2 do
    text[#text + 1] = pairs_given[i] .. '=' .. escape(pairs_given[i + 1])
  end
  -- Servers put `ERR ` in front of an error of one word, so the code is never alone.
  if #text == 1 then text[2] = 'run=' .. escape(PREFIX:match('{(.*)}')) end
  error({ coded = table.concat(text, ' ') })
end

-- Reading a missing argument ends the script with BADARG, instead of a Lua error.
local MISSING = { __index = function(_, i)
  fail('BADARG', 'argument', i, 'given', 'nothing')
end }
setmetatable(ARGV, MISSING)

-- Returns a text as an integer from low to high. Only plain digits are allowed, because scripts may store the text as it was given.
local function int_in(text, name, low, high)
  local n = #text <= 17 and text:find('^%-?%d+$') and text + 0
  if not n or n < low or n > high then
    fail('BADARG', 'argument', name, 'given', text:sub(1, 100), 'low', int_text(low), 'high', int_text(high))
  end
  return n
end

local function int_arg(i, name, low, high) return int_in(ARGV[i], name, low, high) end

local MAX_INT = 9007199254740991

-- Calls `command name ...` with a long list of arguments, in pieces that unpack can take. stride: a piece holds whole groups of this many.
local function call_in_pieces(command, name, list, stride)
  if #list <= 1000 then return redis.call(command, name, unpack(list)) end
  local piece = 1000 - 1000 % (stride or 1)
  for from = 1, #list, piece do
    redis.call(command, name, unpack(list, from, math.min(from + piece - 1, #list)))
  end
end

-- HMGET of any number of fields, as one list.
local function hmget(name, fields)
  if #fields <= 1000 then
    return #fields > 0 and redis.call('HMGET', name, unpack(fields)) or {}
  end
  local all = {}
  for from = 1, #fields, 1000 do
    local got = redis.call('HMGET', name, unpack(fields, from, math.min(from + 999, #fields)))
    for i = 1, #got do all[from + i - 1] = got[i] end
  end
  return all
end

-- Runs the script's body; a coded failure becomes a clean error reply.
local function run(body)
  local ok, answer = pcall(body)
  if ok then return answer end
  if type(answer) == 'table' then
    if answer.coded then return redis.error_reply(answer.coded) end
    return answer
  end
  return redis.error_reply('ERR ' .. tostring(answer))
end
