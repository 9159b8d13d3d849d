-- Says what a recovery would do with the tasks given; changes nothing.
-- Transition: none
-- KEYS: state
-- ARGV: now, version, listed_order (-1: no list), in_flight, file_epoch, allow_loss (1), has_cursor (1), lineage, count of policies, then pairs version, epoch, then per task: listed (1), task
-- Returns: `done name count ...` as recover_sweep, with `file_cursor 1` if the data loader would go back to the checkpoint's cursor
-- Errors: NORUN, SCHEMA, GONE, UNDONE, BADARG
-- Bound: the tasks given (there may be none), at most 1000; it stops after the task that makes 64 slots
-- Flags: no-writes
-- @include recovery
-- @include target
-- @include lineage

return run(function()
  load_state()
  local version, listed_order = int_arg(2, 'version', 0, MAX_INT), int_arg(3, 'listed_order', -1, MAX_INT)
  local first = 10 + 2 * int_arg(9, 'policies', 0, 10000)
  for i = 10, first - 1, 2 do given_policies[int_arg(i, 'policy', 0, version)] = ARGV[i + 1] end
  refuse_target(version, ARGV[5], ARGV[6] == '1', listed_order >= 0)
  local made_by = given_policies[version] or redis.call('HGET', POLICIES, int_text(version)) or ''
  local to = plan_of(version, common_limit(version), listed_order, ARGV[8], ARGV[7] == '1')
  to.requeue_in_flight = ARGV[4] == 'requeue'
  state.version, state.version_epoch = int_text(version), made_by
  local answer = walk(first, to, function() end)
  return to.file_cursor and answer .. ' file_cursor 1' or answer
end)
