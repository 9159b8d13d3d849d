-- The trainer's sign of life, from a thread of its own: the run's views and health checks read it. It is not numbered, since it changes nothing else.
-- Transition: none
-- KEYS: state
-- ARGV: now, token (of the trainer's epoch)
-- Returns: now
-- Errors: NORUN, SCHEMA, FENCED
-- Bound: constant
-- Flags: allow-oom
-- @include writes

local FIELDS = hot_and({ 'epoch' })

return run(function()
  load_state(FIELDS)
  if ARGV[2] ~= (state.epoch or ''):match('%.(%w+)$') then fail('FENCED', 'epoch', state.epoch, 'token', ARGV[2]) end
  set('trainer_at', now)
  flush()
  return int_text(now)
end)
