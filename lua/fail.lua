-- Ends an attempt that the worker could not finish, because of an error of the environment or the code. This is no verdict on the rollout.
-- Transition: held -> waiting for its backoff, or failed for good; of the worker: held -> open; running -> pending, delayed, dead or ready
-- KEYS: state
-- ARGV: now, attempt, message (at most 2000 bytes), retry (1: may be tried again), kind (`task`, or `worker`: the fault is the worker's), trace (of the error, at most 4000 bytes)
-- Returns: `retried`, `failed`, or one of submit's refusals
-- Errors: NORUN, SCHEMA, BADARG
-- Bound: one attempt and the slots of its task
-- Flags: allow-oom
-- @include refusal

return run(function()
  load_state()
  local id, message = ARGV[2], ARGV[3]
  if #message > 2000 then fail('BADARG', 'argument', 'message', 'given', #message, 'high', 2000) end
  local kind, trace = rawget(ARGV, 5) or 'task', rawget(ARGV, 6) or '' -- an earlier release gives none
  if kind ~= 'task' and kind ~= 'worker' then fail('BADARG', 'argument', 'kind', 'given', kind) end
  if #trace > 4000 then fail('BADARG', 'argument', 'trace', 'given', #trace, 'high', 4000) end
  load_attempts({ id })
  local t, k, s, holds = holder(id)
  local answer
  if holds then
    Failures.note(t, id, kind, message, trace)
    answer = fail_attempt(t, k, s, message, ARGV[4] == '1', kind == 'worker')
  else
    answer = refusal(id)
  end
  flush()
  Breaker.look()
  return answer
end)
