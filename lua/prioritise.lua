-- Gives tasks that wait another priority. They keep their number, so that tasks of equal priority stay in the order of their enqueue.
-- Transition: none of a task; its place among the waiting ones changes
-- KEYS: state
-- ARGV: now, gate (3), then pairs of task, priority
-- Returns: a word for each task: `prioritised`, or the state it is in, or `unknown`
-- Errors: gate's, RECOVERING, BADARG
-- Bound: the tasks given, at most 1000
-- Flags: allow-oom
-- @include gate

local FIELDS = gate_and({})

return gated(FIELDS, function()
  refuse_while_recovering()
  local ids, priorities, answer = {}, {}, {}
  local n = (#ARGV - FIRST_ARG + 1) / 2
  if n ~= math.floor(n) or n < 1 or n > 1000 then
    fail('BADARG', 'argument', 'tasks', 'given', n, 'low', 1, 'high', 1000)
  end
  for i = 1, n do
    ids[i] = ARGV[FIRST_ARG + 2 * i - 2]
    priorities[i] = int_arg(FIRST_ARG + 2 * i - 1, 'priority', -1000, 1000)
  end
  load_tasks(ids)
  for i = 1, n do
    local t = tasks[ids[i]]
    if t and (t.state == 'P' or t.state == 'D') then
      TaskOptions.set_priority(t, priorities[i])
      changed(t)
      if t.state == 'P' then zput(PENDING, t.id, place(t)) end
      event('priority', t.id .. ' ' .. int_text(priorities[i]))
      answer[i] = 'prioritised'
    else
      answer[i] = state_word(t)
    end
  end
  return table.concat(answer, ' ')
end)
