-- Writes down what a controller says of an attempt, if the run agrees, and if the gateway knows the newest record of the rollout.
-- Transition: none
-- KEYS: state
-- ARGV: now, task, attempt (empty: none), letter (`H`: the attempt must hold its slot, `D`: it must have filled it; empty: either), old record, new record, controller, held (what the controller has; empty: it has the attempt no more), heard (time of the attempt's sign of life; empty: none), ended (1: the task has ended, else 0)
-- Returns: `noted` and the payload of the task, or `over` (the letter is another one), or `changed` (the old record is not the newest)
-- Errors: NORUN, SCHEMA, BADARG
-- Bound: one task
-- Flags: allow-oom
-- @include gateway_records
-- @include gateway_ends

local function is_over(attempt, wanted)
  if wanted ~= 'H' and wanted ~= 'D' then fail('BADARG', 'argument', 'letter', 'given', wanted) end
  load_attempts({ attempt })
  local t, k, _, _, same = holder(attempt)
  return not same or letter(t, k) ~= wanted
end

return run(function()
  load_state()
  local task, attempt, wanted, old, new = ARGV[2], ARGV[3], ARGV[4], ARGV[5], ARGV[6]
  local holding, held = holding_arg(7), ARGV[8]
  local heard, ended = text_arg(9, 'heard', '^%d+%.?%d*$', 20), int_arg(10, 'ended', 0, 1) == 1
  if wanted ~= '' and is_over(attempt, wanted) then return { 'over' } end
  local record = redis.call('HGET', ROLLOUTS, task)
  -- A call that is sent again finds the new record, and has the same effect.
  if record ~= old and record ~= new then return { 'changed' } end
  flush()
  redis.call('HSET', ROLLOUTS, task, new)
  if attempt ~= '' then
    if held ~= '' then redis.call('HSET', holding, attempt, held) else redis.call('HDEL', holding, attempt) end
    if heard ~= '' then redis.call('ZADD', HEARD, heard, attempt) end
  end
  if ended then note_end(task) end
  return { 'noted', redis.call('HGET', PAYLOADS, task) }
end)
