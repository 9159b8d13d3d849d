-- Writes down attempts that a gateway claimed for a controller: those that hold their slots, and of whose rollouts it knows the newest record.
-- Transition: none
-- KEYS: state
-- ARGV: now, controller, then per attempt: attempt, old record (empty: the rollout has none), new record, held (what the controller has)
-- Returns: a word for each attempt: `noted`, `over` (it does not hold its slot), or `changed` (the old record is not the newest)
-- Errors: NORUN, SCHEMA, BADARG
-- Bound: the attempts given, at most 1000
-- Flags: allow-oom
-- @include gateway_records

local ITEM = 4

return run(function()
  load_state()
  local holding, n = holding_arg(2), (#ARGV - 2) / ITEM
  if n ~= math.floor(n) or n < 1 or n > 1000 then
    fail('BADARG', 'argument', 'attempts', 'given', n, 'low', 1, 'high', 1000)
  end
  local ids, task_ids, words, records, held = {}, {}, {}, {}, {}
  for i = 1, n do ids[i] = ARGV[3 + (i - 1) * ITEM] end
  load_attempts(ids)
  for i = 1, n do task_ids[i] = ids[i]:match(PATTERNS.place) end
  local found = hmget(ROLLOUTS, task_ids)
  for i = 1, n do
    local at = 3 + (i - 1) * ITEM
    local old, new, _, _, _, holds = ARGV[at + 1], ARGV[at + 2], holder(ids[i])
    -- A call that is sent again finds the new record, and has the same effect.
    if not holds then
      words[i] = 'over'
    elseif (found[i] or '') ~= old and found[i] ~= new then
      words[i] = 'changed'
    else
      words[i] = 'noted'
      records[#records + 1], records[#records + 2] = task_ids[i], new
      held[#held + 1], held[#held + 2] = ids[i], ARGV[at + 3]
    end
  end
  flush()
  if #records > 0 then
    call_in_pieces('HSET', ROLLOUTS, records, 2)
    call_in_pieces('HSET', holding, held, 2)
  end
  return table.concat(words, ' ')
end)
