-- Notes that a checkpoint is safely written. A trainer's checkpoint moves the floor up to the oldest checkpoint that is kept.
-- An operator's checkpoint has no weights beside it: it is on a list of its own, and moves no floor.
-- Transition: none of a task; tasks below the floor may be trimmed
-- KEYS: state
-- ARGV: now, gate (3), version (of the checkpoint), epoch (of an operator's checkpoint; else empty)
-- Returns: the floor
-- Errors: gate's, RECOVERING, EARLY (the version is above the run's), UNDONE, GONE (an operator's), BADARG
-- Bound: constant
-- Flags: allow-oom
-- @include gate
-- @include target

local FIELDS = gate_and({ 'checkpoints', 'operator_checkpoints', 'keep_checkpoints', 'floor', 'recoveries' })
local MOST_OF_OPERATORS = 16 -- the list is for people: the run keeps no tasks for these checkpoints

-- Adds a version to a list of versions. Returns the newest `most` of them as text, newest first, and the oldest of these.
local function with_newest(list, version, most)
  local versions = { version }
  for v in (list or ''):gmatch('%d+') do
    if tonumber(v) ~= version then versions[#versions + 1] = tonumber(v) end
  end
  table.sort(versions, function(a, b) return a > b end)
  local kept = {}
  for i = 1, math.min(#versions, most) do kept[i] = int_text(versions[i]) end
  return table.concat(kept, ' '), tonumber(kept[#kept])
end

return gated(FIELDS, function()
  refuse_while_recovering()
  local version = int_arg(FIRST_ARG, 'version', 0, MAX_INT)
  if ARGV[2] == 'o' then refuse_target(version, ARGV[FIRST_ARG + 1] or '', false, true) end
  if version > num('version') then fail('EARLY', 'checkpoint', int_text(version), 'version', state.version) end
  if ARGV[2] == 'o' then
    set('operator_checkpoints', (with_newest(state.operator_checkpoints, version, MOST_OF_OPERATORS)))
    event('operator_commit', int_text(version) .. ' ' .. state.floor)
    return state.floor
  end
  local kept, oldest = with_newest(state.checkpoints, version, num('keep_checkpoints'))
  set('checkpoints', kept)
  if oldest > num('floor') then set('floor', oldest) end
  event('commit', int_text(version) .. ' ' .. state.floor)
  return state.floor
end)
