-- Says which commands the caller's user may not call on the run's keys, so that no other script is stopped by that after its first writes.
-- Transition: none
-- KEYS: state
-- ARGV: now, commands...
-- Returns: for each command that cannot be called `denied command`, or `unknown command` where the server has none of that name; nothing of a server that cannot be asked (before Redis 7)
-- Errors: none
-- Bound: the commands given, at most 100
-- Flags: no-writes
-- @include frame

return run(function()
  local answer, may_call = {}, redis.acl_check_cmd
  if not may_call then return answer end
  for i = 2, math.min(#ARGV, 101) do
    -- As many keys as any of the commands needs at least: some servers end where an argument that should be a key is missing.
    local known, allowed = pcall(may_call, ARGV[i], TASKS, TASKS, TASKS, TASKS)
    if not known then answer[#answer + 1] = 'unknown ' .. ARGV[i] end
    if known and not allowed then answer[#answer + 1] = 'denied ' .. ARGV[i] end
  end
  return answer
end)
