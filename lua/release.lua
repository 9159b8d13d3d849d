-- Gives attempts back without penalty, for example when a worker stops or is the wrong one for the task.
-- Transition: held -> open; running -> pending or delayed if no other slot of the task is held or done
-- KEYS: state
-- ARGV: now, attempts...
-- Returns: a line for each attempt: `released`, or one of submit's refusals
-- Errors: NORUN, SCHEMA, BADARG
-- Bound: the attempts given, at most 1000
-- Flags: allow-oom
-- @include refusal

return run(function()
  load_state()
  local ids, answer = {}, {}
  for i = 2, #ARGV do ids[i - 1] = ARGV[i] end
  if #ids < 1 or #ids > 1000 then fail('BADARG', 'argument', 'attempts', 'given', #ids, 'low', 1, 'high', 1000) end
  load_attempts(ids)
  for i = 1, #ids do
    local t, k, s, holds = holder(ids[i])
    if holds then
      release_attempt(t, k, s)
      answer[i] = 'released'
    else
      answer[i] = refusal(ids[i])
    end
  end
  flush()
  return answer
end)
