-- Takes back what is due, without a claim: attempts of leases that ran out, attempts past their time-out, retries.
-- Transition: held -> open or failed for good; running -> pending, delayed, dead or ready; delayed -> pending
-- KEYS: state
-- ARGV: now, limit
-- Returns: how many retries, attempts and sessions it took back
-- Errors: NORUN, SCHEMA, BADARG
-- Bound: limit of each kind; it stops when the tasks that end or go back have 1000 slots together (it finishes the last of these tasks)
-- Flags: allow-oom
-- @include sweep

return run(function()
  load_state()
  local n = sweep(int_arg(2, 'limit', 1, 1000))
  flush()
  return n
end)
