-- @include attempts
-- What gateways keep of rollouts and of their controllers.

local ROLLOUTS, HELD, HEARD = key('gateway:rollouts'), key('gateway:held:'), key('gateway:heard')

-- Refuses what commands could not take: a call that has begun to write must not fail.
local function text_arg(i, name, pattern, most)
  local given = ARGV[i]
  if given ~= '' and (#given > most or not given:find(pattern)) then
    fail('BADARG', 'argument', name, 'given', given:sub(1, 100))
  end
  return given
end

-- What a controller has is forgotten when it has not asked for seven days: it may never come back. Gateways prolong this when it asks.
local function keep_holding(holding) redis.call('PEXPIRE', holding, 604800000) end

-- The key of what a controller has, whose name is argument i.
local function holding_arg(i) return HELD .. text_arg(i, 'controller', '^[%w%._:/@+-]+$', 200) end
