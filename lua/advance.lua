-- Acknowledges that the batch of step = version was trained: the resulting policy is the next version.
-- Transition: batched -> consumed, for the whole batch, by version + 1 alone
-- KEYS: state
-- ARGV: now, gate (3), step, digest (of the sealed batch; `-`: none), allow_empty (1), has_blob (1), blob
-- Returns: `version size batch_size`: the new version, how many tasks were consumed, and B
-- Errors: gate's, RECOVERING, EARLY (step, version, open; due: in the mode `wait`, tasks of that version or older would become too old), DIGEST (step, given, sealed), TOOBIG, BADARG
-- Bound: constant
-- Flags: allow-oom
-- @include gate
-- @include waiting

local FIELDS = gate_and({ 'open_size', 'total_consumed' })

local MAX_BLOB_BYTES = 1048576

return gated(FIELDS, function()
  refuse_while_recovering()
  local step, digest = int_arg(FIRST_ARG, 'step', 0, MAX_INT), ARGV[FIRST_ARG + 1]
  local allow_empty, blob = ARGV[FIRST_ARG + 2] == '1', ARGV[FIRST_ARG + 4]
  local version, size = num('version'), 0
  if #blob > MAX_BLOB_BYTES then fail('TOOBIG', 'blob', 'advance', 'bytes', #blob, 'limit', MAX_BLOB_BYTES) end
  if step ~= version then fail('EARLY', 'step', int_text(step), 'version', state.version) end
  if num('step_next') > version then
    local sealed
    size, sealed = (redis.call('HGET', BATCHES, state.version) or ''):match('^(%d+) (%w+)')
    if digest ~= sealed then fail('DIGEST', 'step', int_text(step), 'given', digest, 'sealed', sealed or '') end
    size = tonumber(size)
    bump('accepted', batch_size() - math.max(batch_size(), size))
  else
    if digest ~= '-' then fail('DIGEST', 'step', int_text(step), 'given', digest, 'sealed', '') end
    if not allow_empty or num('open_size') > 0 then
      fail('EARLY', 'step', int_text(step), 'version', state.version, 'open', num('open_size'))
    end
    local due = Staleness.unsealable(0)
    if due then fail('EARLY', 'step', int_text(step), 'version', state.version, 'due', int_text(due)) end
    bump('accepted', batch_size())
    set('step_next', version + 1)
  end
  bump('total_consumed', size)
  set('version', version + 1)
  set('version_epoch', state.epoch)
  hput(POLICIES, int_text(version + 1), state.epoch)
  if ARGV[FIRST_ARG + 3] == '1' then
    set('blob', blob)
    bump('blob_seq', 1)
  end
  Markers.arm_workers()
  event('advance', state.version .. ' ' .. state.epoch)
  return table.concat({ state.version, int_text(size), batch_size() }, ' ')
end)
