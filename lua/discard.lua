-- Rejects rollouts that the trainer's filter does not want.
-- Transition: ready or batched (not sealed) -> rejected
-- KEYS: state
-- ARGV: now, gate (3), reason, tasks...
-- Returns: a word for each task that the bound allows: `discarded`, or the state it is in, or `unknown`
-- Errors: gate's, RECOVERING, BADARG
-- Bound: the first of the tasks given (at most 1000) that have at most 1024 slots together, one at least
-- Flags: allow-oom
-- @include gate
-- @include endings

local FIELDS = gate_and({ 'open_size' })

return gated(FIELDS, function()
  refuse_while_recovering()
  local ids, answer = task_args(FIRST_ARG + 1), {}
  for i = 1, #ids do
    local t = tasks[ids[i]]
    if t and (t.state == 'Y' or t.state == 'B') and is_unsealed(t) then
      finish_task(t, 'J', ARGV[FIRST_ARG], 'filtered')
      bump('total_discarded', 1)
      answer[i] = 'discarded'
    else
      answer[i] = state_word(t)
    end
  end
  return table.concat(answer, ' ')
end)
