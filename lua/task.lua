-- Reads all that the run knows of one task, to show to people.
-- Transition: none
-- KEYS: state
-- ARGV: now, task
-- Returns: an empty list if the task is unknown, else a list of names and values (the fields of TaskRow; last_failure: as failures.lua stores it; empty: none), then per claimed slot a list: slot, attempt, tries, version, session, at, why
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
  local stales, requeues = again_parts(t)
  local facts = {
    'state', state_word(t), 'samples', t.samples, 'errors', t.errors, 'oldest', t.oldest, 'newest', t.newest,
    'stale_requeues', stales, 'requeues', requeues, 'step', t.step, 'letters', t.letters,
    'reason', redis.call('HGET', REASONS, id) or '', 'payload_bytes', #(redis.call('HGET', PAYLOADS, id) or ''),
    'last_failure', redis.call('HGET', key('errors'), id) or '',
  }
  for name, value in pairs(TaskOptions.of(t)) do
    facts[#facts + 1] = name
    facts[#facts + 1] = value
  end
  local answer = { facts }
  load_slots_of(t)
  for k = 0, t.samples - 1 do
    local s = slot_of(t, k)
    if s then
      local why = letter(t, k):find('[HD]') and '' or s.why -- of a held slot: of the attempt before; of a done one: how long it took
      answer[#answer + 1] = { k, attempt_id(t, k, s), s.tries, s.version, s.session, s.at, why }
    end
  end
  return answer
end)
