-- Ends an attempt that the worker could not finish, because of an error of the environment or the code. This is no verdict on the rollout.
-- Transition: held -> waiting for its backoff, or failed for good; running -> pending, delayed, dead or ready
-- KEYS: state
-- ARGV: now, attempt, message (at most 2000 bytes), retry (1: may be tried again)
-- Returns: `retried`, `failed`, or one of submit's refusals
-- Errors: NORUN, SCHEMA, BADARG
-- Bound: one attempt and the slots of its task
-- Flags: allow-oom
-- @include refusal

return run(function()
  load_state()
  local id, message = ARGV[2], ARGV[3]
  if #message > 2000 then fail('BADARG', 'argument', 'message', 'given', #message, 'high', 2000) end
  load_attempts({ id })
  local t, k, s, holds = holder(id)
  local answer
  if holds then
    answer = fail_attempt(t, k, s, message, ARGV[4] == '1')
  else
    answer = refusal(id)
  end
  flush()
  return answer
end)
