-- @include tasks
-- Starting a finished task over, with all its slots open and nothing counted against them.

-- samples, fixed: given if they differ from those before.
local function restart_task(t, samples, fixed)
  load_slots_of(t)
  for k = 0, t.samples - 1 do
    local s = slot_of(t, k)
    if s then
      s.tries, s.why = '0', s.why ~= '' and s.why or 'revoked'
      slot_changed(t, k, s)
    end
  end
  leave_state(t)
  if samples then t.samples, t.fixed = samples, fixed end
  local _, requeues = again_parts(t)
  set_again(t, 0, requeues + 1)
  t.letters, t.errors = string.rep('O', t.samples), '0'
  wait_again(t)
end
