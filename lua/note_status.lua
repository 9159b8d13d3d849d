-- Writes down what a controller says of an attempt, if the run agrees, and if the gateway knows the newest record of the rollout. An attempt that ended
-- well is submitted by this call.
-- Transition: with the letter `D` as submit; else none
-- KEYS: state
-- ARGV: now, task, attempt (empty: none), letter (`H`: the attempt must hold its slot, `D`: it submits its result; empty: how its slot is does not matter), old record, new record, controller, held (what the controller has; empty: it has the attempt no more), heard (time of the attempt's sign of life; empty: none), ended (1: the task has ended, else 0), body (the bytes of the result)
-- Returns: `noted` and the payload of the task; or `over`, and with `D` the line of submit's answer; or `changed` (the old record is not the newest; with `D` the result is accepted)
-- Errors: NORUN, SCHEMA, BADARG
-- Bound: one task
-- Flags: allow-oom
-- @include gateway_records
-- @include gateway_ends
-- @include submission

return run(function()
  local task, attempt, wanted, old, new, body = ARGV[2], ARGV[3], ARGV[4], ARGV[5], ARGV[6], ARGV[11]
  local holding, held = holding_arg(7), ARGV[8]
  local heard, ended = text_arg(9, 'heard', '^%d+%.?%d*$', 20), int_arg(10, 'ended', 0, 1) == 1
  -- Only a submit looks at the state or changes the run. A note moves no clock.
  if wanted == 'D' then load_state(SUBMIT_FIELDS) else Run.refuse_unknown(field('schema')) end
  if wanted ~= '' then load_attempts({ attempt }) end
  if wanted == 'D' then
    local answer = submit_one(attempt, 'a', '', '', 'i', body)
    flush_submitted()
    if answer ~= 'accepted' then return { 'over', answer } end
  elseif wanted == 'H' then
    local _, _, _, holds = holder(attempt)
    if not holds then return { 'over' } end
  elseif wanted ~= '' then
    fail('BADARG', 'argument', 'letter', 'given', wanted)
  end
  local record = redis.call('HGET', ROLLOUTS, task)
  -- A call that is sent again finds the new record, and has the same effect.
  if record ~= old and record ~= new then return { 'changed' } end
  redis.call('HSET', ROLLOUTS, task, new)
  if attempt ~= '' then
    if held == '' then
      redis.call('HDEL', holding, attempt)
    elseif redis.call('HSET', holding, attempt, held) == 1 then -- it may be the controller's only one
      keep_holding(holding)
    end
    if heard ~= '' then redis.call('ZADD', HEARD, heard, attempt) end
  end
  if ended then note_end(task) end
  return { 'noted', redis.call('HGET', PAYLOADS, task) }
end)
