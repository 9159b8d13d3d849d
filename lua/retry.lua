-- Starts dead or rejected tasks over, as if they were enqueued now: at the end of the order, with all slots open, and no tries, errors or stale requeues.
-- Transition: dead or rejected -> pending
-- KEYS: state
-- ARGV: now, gate (3), tasks...
-- Returns: a word for each task that the bound allows: `retried`, or the state it is in, or `freed`, `freed_untrained` (dead or rejected, and freed), or `unknown`
-- Errors: gate's, RECOVERING, BADARG
-- Bound: the first of the tasks given (at most 1000) that have at most 1024 slots together, one at least
-- Flags: none
-- @include gate
-- @include restart
-- @include freed_ids

local FIELDS = gate_and({ 'finished_ids' })

return gated(FIELDS, function()
  refuse_while_recovering()
  local ids, answer, any = task_args(FIRST_ARG), {}, false
  for i = 1, #ids do
    local t = tasks[ids[i]]
    if t and (t.state == 'X' or t.state == 'J') then
      bump('order_seq', 1)
      TaskOptions.set_order(t, num('order_seq'))
      restart_task(t)
      bump('total_retried', 1)
      event('retry', t.id)
      answer[i], any = 'retried', true
    else
      answer[i] = not t and freed_word(ids[i]) or state_word(t)
    end
  end
  if any then reopen() end
  return table.concat(answer, ' ')
end)
