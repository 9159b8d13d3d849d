-- Takes tasks out of the run, also while workers hold them. Nobody waits any more for those that a recovery named to be enqueued again.
-- Transition: pending, delayed, running, ready or batched (not sealed) -> rejected
-- KEYS: state
-- ARGV: now, gate (3), tasks...
-- Returns: a word for each task that the bound allows: `cancelled`, or the state it is in, or `unknown`
-- Errors: gate's, RECOVERING, BADARG
-- Bound: the first of the tasks given (at most 1000) that have at most 1024 slots together, one at least
-- Flags: allow-oom
-- @include gate
-- @include endings
-- @include awaited

local FIELDS = gate_and({ 'open_size', 'awaited' })

return gated(FIELDS, function()
  refuse_while_recovering()
  local ids, answer = task_args(FIRST_ARG), {}
  local dropped = Awaited.drop(ids)
  if next(dropped) then Markers.arm_trainer(true) end
  for i = 1, #ids do
    local t = tasks[ids[i]]
    if t and is_unsealed(t) then
      finish_task(t, 'J', 'cancelled', 'cancelled')
      bump('total_cancelled', 1)
      answer[i] = 'cancelled'
    elseif dropped[ids[i]] then
      answer[i] = 'cancelled'
    else
      answer[i] = state_word(t)
    end
  end
  return table.concat(answer, ' ')
end)
