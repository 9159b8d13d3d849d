-- Reads all that the run knows of one task, to show to people.
-- Transition: none
-- KEYS: state
-- ARGV: now, task
-- Returns: an empty list if the task is unknown, else state word, priority, order, samples, min_samples, errors, oldest, newest, stale requeues, requeues, step, letters, reason, payload bytes, last error (as failures.lua stores it; empty: none), then per claimed slot a list: slot, attempt, tries, version, session, at, why
-- Errors: NORUN, SCHEMA
-- Bound: the slots of one task
-- Flags: no-writes
-- @include gate

return run(function()
  load_state()
  local id = ARGV[2]
  load_tasks({ id })
  local t = tasks[id]
  if not t then return {} end
  local priority, order, min = fixed_parts(t)
  local stales, requeues = again_parts(t)
  local answer = { state_word(t), priority, order, t.samples, min, t.errors, t.oldest, t.newest, stales, requeues,
    t.step, t.letters, redis.call('HGET', REASONS, id) or '', #(redis.call('HGET', PAYLOADS, id) or ''),
    redis.call('HGET', key('errors'), id) or '' }
  load_slots_of(t)
  for k = 0, t.samples - 1 do
    local s = slot_of(t, k)
    if s then
      answer[#answer + 1] = { k, attempt_id(t, k, s), s.tries, s.version, s.session, s.at, s.why }
    end
  end
  return answer
end)
