-- Reads a piece of a batch, without the bytes of its results. Any rank may read a sealed batch.
-- Transition: none
-- KEYS: state
-- ARGV: now, step, offset, count
-- Returns: size, sealed (1 or 0), digest (`-`: not sealed), when it was sealed (0: it is not, or nobody noted it), then of each task: id, its record, payload, and the record of each slot after the first (empty: never claimed); records as in record_layout.lua
-- Errors: NORUN, SCHEMA, EARLY (step, step_next), GONE (step), FINISHED (step; count is 0, and the batch is not sealed), BADARG
-- Bound: count tasks, at most 1000; of these the first that have at most 1000 slots together, one at least (the caller asks again for the rest)
-- Flags: no-writes
-- @include rows

local FIELDS = hot_and({ 'open_size' })

return run(function()
  load_state(FIELDS)
  local step, offset = int_arg(2, 'step', 0, MAX_INT), int_arg(3, 'offset', 0, MAX_INT)
  local count = int_arg(4, 'count', 0, 1000)
  local size, digest, sealed, at = num('open_size'), '-', 0, 0
  if step >= num('step_next') and count == 0 and state.finished then fail('FINISHED', 'step', int_text(step)) end -- it will not be sealed
  if step > num('step_next') then fail('EARLY', 'step', int_text(step), 'step_next', state.step_next) end
  if step < num('step_next') then
    size, digest, at = Stored.sealed(step)
    sealed = 1
  end
  local answer = { tonumber(size), sealed, digest, tonumber(at) }
  if count == 0 then return answer end
  local ids = redis.call('ZRANGE', key('batch:' .. int_text(step)), offset, offset + count - 1)
  local rows = rows_of(ids, {})
  for i = 1, #rows do answer[i + 4] = rows[i] end
  return answer
end)
