-- Adds the tasks that the run does not have in any state and has not freed, and stores the data loader's position and the supply in the same step.
-- With again, tasks that are dead or rejected, or were so when they were freed, start over with the payload and numbers given now.
-- Transition: (none) -> pending; with again: dead or rejected -> pending
-- KEYS: state
-- ARGV: now, gate (3), has_cursor (1: store it), cursor, again (1: also start dead and rejected tasks over), supply (`begin`: a feeder begins; `more`: it will bring more tasks; `done`: it will not; empty: not said), then per task: id, payload, options (`name=value,...`, as task_options.lua lists them)
-- Returns: `added position state ...`: how many tasks became pending, then of each other task its position in the call (from 0) and its state (`freed`: trained on and freed, `freed_untrained`: dead or rejected and freed)
-- Errors: gate's, RECOVERING, BADARG, TOOBIG (task, bytes, limit)
-- Bound: the tasks given, at most 1000, and the slots of the tasks that start over
-- Flags: none
-- @include gate
-- @include freed_ids
-- @include restart
-- @include awaited

local FIELDS = gate_and({ 'order_seq', 'finished_ids', 'max_payload_bytes', 'total_enqueued', 'supply', 'awaited' })
-- What a call says of the supply -> what is stored; empty: as set_supply says.
local SUPPLIES = { [''] = '', begin = 'more', more = 'more', done = 'done' }

-- States of tasks that ended and were not trained on.
local UNTRAINED = { dead = true, rejected = true, freed_untrained = true }

-- Starts a dead or rejected task over as a retry does, with a new payload and new options.
local function start_over(t, payload, options, order)
  load_slots_of(t)
  for k = options.samples, t.samples - 1 do drop_slot(t.id, k) end
  restart_task(t, options.samples, TaskOptions.fixed(options, order, TaskOptions.of(t).born))
  hput(PAYLOADS, t.id, payload)
  event('retry', t.id)
end

-- Notes whether more tasks will come. Tasks that are added after the feeder's end, and not by a feeder, make that unknown again.
local function set_supply(said, added)
  if said == '' then
    if added > 0 and state.supply == 'done' then set('supply', '') end
    return
  end
  if said ~= state.supply then set('supply', said) end
  if said == 'done' then Markers.arm_trainer(true) end -- it may wait for more tasks than there will be
end

return gated(FIELDS, function()
  refuse_while_recovering()
  local again, supply, first = ARGV[FIRST_ARG + 2] == '1', ARGV[FIRST_ARG + 3], FIRST_ARG + 4
  if not SUPPLIES[supply] then fail('BADARG', 'argument', 'supply', 'given', supply) end
  local opens = supply == '' or supply == 'begin' -- a feeder at work does not open a run that an operator has finished
  local n = (#ARGV - first + 1) / 3
  if n ~= math.floor(n) or n > 1000 then fail('BADARG', 'argument', 'tasks', 'given', n, 'high', 1000) end
  local ids, payload, options, limit = {}, {}, {}, num('max_payload_bytes')
  for i = 1, n do
    local at = first + (i - 1) * 3
    local id = ARGV[at]
    if #id < 1 or #id > 200 or not id:find('^[%w%._:/@+-]+$') then fail('BADARG', 'argument', 'task', 'given', id) end
    ids[i], payload[i], options[i] = id, ARGV[at + 1], TaskOptions.read(ARGV[at + 2])
    if #payload[i] > limit then fail('TOOBIG', 'task', id, 'bytes', #payload[i], 'limit', int_text(limit)) end
  end
  load_tasks(ids)
  local answer = {}
  local records, payloads, places, order = {}, {}, {}, num('order_seq')
  local added, restarted, seen, check_finished = 0, 0, {}, num('finished_ids') > 0
  for i = 1, n do
    local id = ids[i]
    local there = seen[id] and 'pending' or tasks[id] and state_word(tasks[id]) or (check_finished and freed_word(id))
    if there and not (again and UNTRAINED[there]) then
      answer[#answer + 1] = i - 1 .. ' ' .. there
    elseif tasks[id] then
      seen[id] = true
      order = order + 1
      start_over(tasks[id], payload[i], options[i], order)
      restarted = restarted + 1
    else
      if there then drop_finished(id) end
      seen[id] = true
      added = added + 1
      order = order + 1
      local j = added * 2
      records[j - 1], records[j] = id, TaskOptions.new_record(options[i], order)
      payloads[j - 1], payloads[j] = id, payload[i]
      places[j - 1], places[j] = place_of(options[i].priority, order), id
      event('enqueue', id)
    end
  end
  if added > 0 then
    call_in_pieces('HSET', TASKS, records, 2)
    call_in_pieces('HSET', PAYLOADS, payloads, 2)
    call_in_pieces('ZADD', PENDING, places, 2)
    bump('total_enqueued', added)
  end
  if added + restarted > 0 then
    Markers.pass_on(false, true)
    bump('order_seq', added + restarted)
    set('samples_hint', options[1].samples)
  end
  if restarted > 0 then bump('total_retried', restarted) end
  Awaited.drop(ids)
  set_supply(SUPPLIES[supply], added + restarted)
  if opens then reopen() end
  if ARGV[FIRST_ARG] == '1' then set('cursor', ARGV[FIRST_ARG + 1]) end
  table.insert(answer, 1, added + restarted)
  return table.concat(answer, ' ')
end)
