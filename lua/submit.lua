-- Takes results and verdicts of attempts. Only the attempt that holds its slot may submit, by equality of the attempt id.
-- Transition: held -> done or failed; the last slot: running -> ready, dead or rejected; no slot held or done any more, or too old: running -> pending, delayed or rejected
-- KEYS: state
-- ARGV: now, then per item: attempt, verdict (`a` accept, `r` reject), version, epoch (the newest policy used; empty: that of the claim), bytes (`i`: inline, `s`: the client stored them with SET before the call), body (the inline bytes; the reason of a reject)
-- Returns: a line for each item: `accepted`, `rejected`, `superseded attempt session age_ms`, `stale`, `unknown why`, `noresult`
-- Errors: NORUN, SCHEMA, BADARG
-- Bound: the items given, at most 256
-- Flags: allow-oom
-- @include submission

local ITEM = 6
return run(function()
  load_state(SUBMIT_FIELDS)
  local n = (#ARGV - 1) / ITEM
  if n ~= math.floor(n) or n < 1 or n > 256 then
    fail('BADARG', 'argument', 'items', 'given', n, 'low', 1, 'high', 256)
  end
  local ids, answer = {}, {}
  for i = 1, n do
    local at = 2 + (i - 1) * ITEM
    Verdicts.check(ARGV[at + 1])
    ResultBytes.check(ARGV[at + 4])
    if ARGV[at + 2] ~= '' then int_arg(at + 2, 'version', 0, MAX_INT) end
    ids[i] = ARGV[at]
  end
  load_attempts(ids)
  for i = 1, n do
    local at = 2 + (i - 1) * ITEM
    answer[i] = submit_one(unpack(ARGV, at, at + ITEM - 1))
  end
  flush_submitted()
  return answer
end)
