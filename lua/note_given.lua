-- Writes down attempts that a gateway claimed for a controller, of those that hold their slots: in the records of their rollouts, and for the controller.
-- Transition: none
-- KEYS: state
-- ARGV: now, controller, fresh (the rest of the record of a rollout that has none yet), then per attempt: attempt, held (what the controller has)
-- Returns: the record of each attempt's rollout; empty: the attempt does not hold its slot
-- Errors: NORUN, SCHEMA, BADARG
-- Bound: the attempts given, at most 1000
-- Flags: allow-oom
-- @include gateway_records

local ITEM = 2

-- A record is a list in JSON. Its first three items are those of the newest attempt that a controller was given: the attempt, the controller,
-- the state. Returns the attempt, and the rest of the record; nothing: it is no record.
local function parts(record) return record:match('^%["([^"]*)", "[^"]*", "[^"]*"(, .*)$') end

return run(function()
  load_state()
  local holding, fresh, n = holding_arg(2), ARGV[3], (#ARGV - 3) / ITEM
  if n ~= math.floor(n) or n < 1 or n > 1000 then
    fail('BADARG', 'argument', 'attempts', 'given', n, 'low', 1, 'high', 1000)
  end
  local ids, task_ids, answer, records, held = {}, {}, {}, {}, {}
  for i = 1, n do ids[i] = ARGV[4 + (i - 1) * ITEM] end
  load_attempts(ids)
  for i = 1, n do task_ids[i] = ids[i]:match(PATTERNS.place) end
  local found = hmget(ROLLOUTS, task_ids)
  for i = 1, n do
    local _, _, _, holds = holder(ids[i])
    local given, rest = parts(found[i] or '')
    if not holds then
      answer[i] = ''
    elseif given == ids[i] then -- the call was sent again: the controller may have started the attempt since
      answer[i] = found[i]
    else
      answer[i] = '["' .. ids[i] .. '", "' .. ARGV[2] .. '", "queuing"' .. (rest or fresh)
      records[#records + 1], records[#records + 2] = task_ids[i], answer[i]
      held[#held + 1], held[#held + 2] = ids[i], ARGV[5 + (i - 1) * ITEM]
    end
  end
  flush()
  if #records > 0 then
    call_in_pieces('HSET', ROLLOUTS, records, 2)
    call_in_pieces('HSET', holding, held, 2)
    keep_holding(holding)
  end
  return answer
end)
