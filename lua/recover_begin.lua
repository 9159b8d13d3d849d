-- Begins a recovery: the run goes back (or on) to a version, under a new epoch. Claims, take, enqueue, advance and discard stop until recover_commit.
-- Transition: none of a task; the sweep that follows moves them
-- KEYS: state
-- ARGV: now, token (the caller's own choice), version, file_epoch (of the checkpoint; empty: none), listed_order (newest task that the checkpoint knows; -1: it has no list), in_flight (`keep` or `requeue`), allow_loss (1), has_cursor (1), cursor, has_blob (1), blob, count of policies, then pairs version, epoch, then pairs of config field, value (to create a run that is not there)
-- Returns: epoch, version before, step_next before, accepted before, running before, capacity before, consumed tasks of lost steps
-- Errors: NORUN, SCHEMA, FENCED, GONE (version, floor), UNDONE (version, epoch, by, to), BADARG
-- Bound: the steps between the versions, the policies and config given
-- Flags: allow-oom
-- @include creation
-- @include target

local POLICIES_START = 13

-- How many tasks the steps from version on have consumed that are not part of the history any more.
local function consumed_by_lost_steps(version)
  local steps, n = {}, 0
  for step = version, num('version') - 1 do steps[#steps + 1] = int_text(step) end
  for _, entry in ipairs(hmget(BATCHES, steps)) do
    if entry then n = n + tonumber(entry:match('^%d+')) end
  end
  return n
end

local function take_policies(version, epoch)
  local n = int_arg(12, 'policies', 0, 10000)
  for i = POLICIES_START, POLICIES_START + 2 * n - 1, 2 do
    int_arg(i, 'policy', 0, version)
    given_policies[tonumber(ARGV[i])] = ARGV[i + 1]
    hput(POLICIES, ARGV[i], ARGV[i + 1])
  end
  local made_by = given_policies[version] or redis.call('HGET', POLICIES, int_text(version)) or epoch
  hput(POLICIES, int_text(version), made_by)
  set('version_epoch', made_by)
end

local function go_to(version, epoch)
  set('recovering', version)
  set('recover_steps', math.max(num('recover_steps'), num('step_next')))
  set('version', version)
  set('step_next', version)
  set('recover_order', ARGV[5])
  set('recover_in_flight', ARGV[6])
  if num('order_seq') < tonumber(ARGV[5]) then set('order_seq', ARGV[5]) end
  if ARGV[8] == '1' then set('cursor', ARGV[9]) end
  set('blob', ARGV[10] == '1' and ARGV[11] or '')
  bump('blob_seq', 1)
  local recoveries = int_text(number_of(epoch)) .. ':' .. int_text(version) .. ' ' .. (state.recoveries or '')
  set('recoveries', recoveries:sub(1, 2000))
  local kept = {}
  for v in (state.checkpoints or ''):gmatch('%d+') do
    if tonumber(v) <= version then kept[#kept + 1] = v end
  end
  set('checkpoints', table.concat(kept, ' '))
end

return run(function()
  local token, version = ARGV[2], int_arg(3, 'version', 0, MAX_INT)
  check_token(token)
  int_arg(5, 'listed_order', -1, MAX_INT)
  if ARGV[6] ~= 'keep' and ARGV[6] ~= 'requeue' then fail('BADARG', 'argument', 'in_flight', 'given', ARGV[6]) end
  local first_config = POLICIES_START + 2 * int_arg(12, 'policies', 0, 10000)
  load_state({ 'epoch', 'tokens', 'recoveries', 'checkpoints', 'floor', 'recover_steps', 'order_seq', 'begin_answer' },
    #ARGV >= first_config)
  local epoch = int_text(number_of(ARGV[4]) + 1) .. '.' .. token
  if not state.schema then
    create_run(epoch, first_config)
  else
    if state.epoch:match('%.(%w+)$') == token then return state.begin_answer end
    refuse_old_token(token)
    refuse_target(version, ARGV[4], ARGV[7] == '1')
    epoch = int_text(math.max(number_of(ARGV[4]), number_of(state.epoch)) + 1) .. '.' .. token
    take_over(epoch)
  end
  local lost = consumed_by_lost_steps(version)
  local answer = table.concat({ epoch, state.version, state.step_next, state.accepted, state.running,
    int_text(capacity()), lost }, ' ')
  bump('total_consumed', -lost)
  go_to(version, epoch)
  take_policies(version, epoch)
  set('begin_answer', answer)
  event('recover', int_text(version) .. ' ' .. epoch)
  flush()
  return answer
end)
