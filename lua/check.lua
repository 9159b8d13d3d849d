-- Checks that each task is in exactly the set of its state, and each of its held slots in its session's set.
-- Transition: none
-- KEYS: state
-- ARGV: now, tasks...
-- Returns: a line for each problem
-- Errors: NORUN, SCHEMA
-- Bound: the tasks given, at most 1000, and their slots
-- Flags: no-writes
-- @include record_cache

local SETS = { P = PENDING, D = DELAYED, R = RUNNING, Y = READY, X = DEAD, J = REJECTED }

local function check_task(t, problem)
  for s, name in pairs(SETS) do
    local there = redis.call('ZSCORE', name, t.id)
    if t.state == s and not there then problem(t, 'is missing in the set of its state') end
    if t.state ~= s and there then problem(t, 'stands in a set of another state: ' .. s) end
  end
  if t.state == 'B' and not redis.call('ZSCORE', key('batch:' .. t.step), t.id) then
    problem(t, 'is missing in its batch')
  end
  local open = t.state == 'R' and t.letters:find('O', 1, true) ~= nil
  if open ~= (redis.call('ZSCORE', OPEN, t.id) ~= false) then
    problem(t, 'disagrees with the set of open slots')
  end
  if not t.letters:find('[HW]') then return end
  if t.state ~= 'R' then return problem(t, 'has held or waiting slots and is not running') end
  load_slots_of(t)
  for k = 0, t.samples - 1 do
    local c, s = letter(t, k), slot_of(t, k)
    if c == 'W' and not redis.call('ZSCORE', RETRIES, slot_name(t, k)) then
      problem(t, 'has a waiting slot that nothing wakes')
    end
    if c == 'H' and not redis.call('ZSCORE', SESSION .. s.session, attempt_id(t, k, s)) then
      problem(t, 'has a held slot that its session does not know')
    end
    if c == 'H' and not redis.call('ZSCORE', SESSIONS, s.session) then
      problem(t, 'is held by a session that is gone')
    end
  end
end

return run(function()
  load_state()
  local ids, problems = {}, {}
  for i = 2, math.min(#ARGV, 1001) do ids[#ids + 1] = ARGV[i] end
  load_tasks(ids)
  for i = 1, #ids do
    local t = tasks[ids[i]]
    if t then
      check_task(t, function(task, text)
        problems[#problems + 1] = task.id .. ' (' .. task.state .. ') ' .. text
      end)
    end
  end
  return problems
end)
