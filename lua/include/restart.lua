-- @include tasks
-- Starting a finished task over, with all its slots open and nothing counted against them.

local function restart_task(t)
  load_slots_of(t)
  for k = 0, t.samples - 1 do
    local s = slots[t.id .. '#' .. k]
    if s then
      s.tries, s.why = 0, s.why ~= '' and s.why or 'revoked'
      slot_changed(t, k, s)
    end
  end
  leave_state(t)
  t.letters, t.errors, t.stales, t.requeues = string.rep('O', t.samples), 0, 0, t.requeues + 1
  wait_again(t)
end
