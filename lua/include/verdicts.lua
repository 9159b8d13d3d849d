-- @include endings
-- @include quarantine
-- Verdicts: what a worker says of the rollout that its attempt made (in Python: `broker/values/verdict.py`).
-- `a` accept: a result, which may be trained on. `r` reject: no result, and a reason. The slot fails for good, without an error.

local Verdicts = {}

Verdicts.check = function(verdict)
  if verdict ~= 'a' and verdict ~= 'r' then fail('BADARG', 'argument', 'verdict', 'given', verdict) end
end

-- Whether a slot that failed for good did so by a verdict, which takes no try.
Verdicts.rejected = function(s) return s.why == 'rejected' end

-- Ends an attempt with the verdict that its rollout must not be trained on. Returns the answer to the worker.
Verdicts.reject = function(t, k, s, reason)
  end_hold(t, k, s, 'rejected')
  Quarantine.forget(s.session)
  set_letter(t, k, 'F')
  bump('total_verdicts', 1)
  end_check(t, 'rejected', reason ~= '' and reason or 'rejected')
  return 'rejected'
end
