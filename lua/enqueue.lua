-- Adds tasks that do not exist in any state, nor were finished and freed, and stores the data loader's position in the same step.
-- Transition: (none) -> pending
-- KEYS: state
-- ARGV: now, gate (3), has_cursor (1: store it), cursor, then per task: id, priority, samples, min_samples, payload
-- Returns: `added existing...`: how many were added, then the positions (from 0) of those that existed
-- Errors: gate's, RECOVERING, BADARG, TOOBIG (task, bytes, limit)
-- Bound: the tasks given, at most 1000
-- Flags: none
-- @include gate
-- @include finished

local FIELDS = gate_and({ 'order_seq', 'finished_ids', 'max_payload_bytes', 'total_enqueued' })
-- The rest of the new records of tasks with these numbers, checked; most calls have the same for all.
local tails = {} -- `priority samples min_samples` -> text

local function tail_of(at)
  local numbers = ARGV[at + 1] .. ' ' .. ARGV[at + 2] .. ' ' .. ARGV[at + 3]
  if not tails[numbers] then
    int_arg(at + 1, 'priority', -1000, 1000)
    int_arg(at + 3, 'min_samples', 1, int_arg(at + 2, 'samples', 1, 1024))
    tails[numbers] = ',' .. ARGV[at + 2] .. ',' .. ARGV[at + 3] .. ',0,0,-1,-1,0,0,-1,'
  end
  return tails[numbers]
end

return gated(FIELDS, function()
  refuse_while_recovering()
  local first = FIRST_ARG + 2
  local n = (#ARGV - first + 1) / 5
  if n ~= math.floor(n) or n > 1000 then fail('BADARG', 'argument', 'tasks', 'given', n, 'high', 1000) end
  local ids, tail, limit = {}, {}, num('max_payload_bytes')
  for i = 1, n do
    local at = first + (i - 1) * 5
    local id = ARGV[at]
    if #id < 1 or #id > 200 or not id:find('^[%w%._:/@+-]+$') then fail('BADARG', 'argument', 'task', 'given', id) end
    ids[i], tail[i] = id, tail_of(at)
    if #ARGV[at + 4] > limit then fail('TOOBIG', 'task', id, 'bytes', #ARGV[at + 4], 'limit', int_text(limit)) end
  end
  local exists, answer = hmget(TASKS, ids), {}
  local records, payloads, places, order = {}, {}, {}, num('order_seq')
  local added, seen, check_finished = 0, {}, num('finished_ids') > 0
  for i = 1, n do
    local id, at = ids[i], first + (i - 1) * 5
    if exists[i] or seen[id] or (check_finished and is_finished(id)) then
      answer[#answer + 1] = i - 1
    else
      seen[id] = true
      added = added + 1
      order = order + 1
      local priority, j = tonumber(ARGV[at + 1]), added * 2
      records[j - 1], records[j] = id, 'P,' .. small_text(priority) .. ',' .. int_text(order) .. tail[i]
      payloads[j - 1], payloads[j] = id, ARGV[at + 4]
      places[j - 1], places[j] = place_of(priority, order), id
      event('enqueue', id)
    end
  end
  if added > 0 then
    call_in_pieces('HSET', TASKS, records, 2)
    call_in_pieces('HSET', PAYLOADS, payloads, 2)
    call_in_pieces('ZADD', PENDING, places, 2)
    arm_workers()
    set('order_seq', order)
    set('samples_hint', ARGV[first + 2])
    bump('total_enqueued', added)
  end
  if ARGV[FIRST_ARG] == '1' then set('cursor', ARGV[FIRST_ARG + 1]) end
  table.insert(answer, 1, added)
  return table.concat(answer, ' ')
end)
