-- Takes back what is due, without claiming: leases that ran out, time-outs, retries.
-- Transition: held -> open or failed for good; running -> pending, delayed, dead or ready; delayed -> pending
-- KEYS: state
-- ARGV: now, limit
-- Returns: how many things it took back
-- Errors: NORUN, SCHEMA, BADARG
-- Bound: limit of each kind, and of large groups that end with it as many as have 1000 slots (the rest of one more)
-- Flags: allow-oom
-- @include sweep

return run(function()
  load_state()
  local n = sweep(int_arg(2, 'limit', 1, 1000))
  flush()
  return n
end)
