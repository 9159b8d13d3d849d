-- A checkpoint of the current version is safely written: the floor rises to the oldest one that is kept.
-- Transition: none of a task; what is below the floor may be trimmed
-- KEYS: state
-- ARGV: now, gate (3), version (of the checkpoint)
-- Returns: the floor
-- Errors: gate's, RECOVERING, EARLY (version of the future), BADARG
-- Bound: constant
-- Flags: allow-oom
-- @include gate

local FIELDS = gate_and({ 'checkpoints', 'keep_checkpoints', 'floor' })

return gated(FIELDS, function()
  refuse_while_recovering()
  local version = int_arg(FIRST_ARG, 'version', 0, MAX_INT)
  if version > num('version') then fail('EARLY', 'step', int_text(version), 'version', state.version) end
  local versions = { version }
  for v in (state.checkpoints or ''):gmatch('%d+') do
    if tonumber(v) ~= version then versions[#versions + 1] = tonumber(v) end
  end
  table.sort(versions, function(a, b) return a > b end)
  local kept = {}
  for i = 1, math.min(#versions, num('keep_checkpoints')) do kept[i] = int_text(versions[i]) end
  set('checkpoints', table.concat(kept, ' '))
  if tonumber(kept[#kept]) > num('floor') then set('floor', kept[#kept]) end
  event('commit', int_text(version) .. ' ' .. state.floor)
  return state.floor
end)
