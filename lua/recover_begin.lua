-- Begins a recovery: the run goes back (or forward) to a version, under a new epoch. Until recover_commit no claim gets work, and take, enqueue, advance, discard, cancel, retry and commit are refused.
-- Transition: none of a task; recover_sweep moves the tasks
-- KEYS: state
-- ARGV: now, token (the caller chooses it), version, file_epoch (of the checkpoint; empty: none), listed_order (number of the newest task that the checkpoint knows; -1: it has no list), in_flight (`keep` or `requeue`), allow_loss (1), has_cursor (1), cursor, has_blob (1), blob, count of policies, recoveries (that the checkpoint knows, `epoch:version ...`), lineage (of the checkpoint's order numbers, `token:number ...`; empty: it has none), then pairs version, epoch, then pairs of config field, value (to create the run if it is not there)
-- Returns: epoch, version before, step_next before, accepted before, running before, capacity before, consumed tasks of lost steps
-- Errors: NORUN, SCHEMA, FENCED, GONE (version, floor), UNDONE (version, epoch, by, to), BADARG
-- Bound: the number of batches that are kept, of policies, and of config fields given
-- Flags: allow-oom
-- @include creation
-- @include target
-- @include freed_ids
-- @include awaited

local FIELDS = hot_and({
  'epoch', 'tokens', 'recoveries', 'checkpoints', 'operator_checkpoints', 'floor', 'recover_limit', 'order_seq',
  'begin_answer', 'lineage', 'supply', 'awaited',
})

local MAX_VERSION = 1000000000 -- so that (S + version + 1) * B stays exact
local POLICIES_START = 15

-- Counts the tasks that the steps from `limit` on consumed. These steps are lost with this recovery.
local function consumed_by_lost_steps(limit)
  local n, entries = 0, redis.call('HGETALL', BATCHES)
  local before = math.min(tonumber(field('recover_limit') or '') or MAX_INT, num('version'))
  for i = 1, #entries, 2 do
    local step = tonumber(entries[i])
    if step >= limit and step < before then n = n + tonumber(entries[i + 1]:match('^%d+')) end
  end
  return n
end

-- Deletes the policies above the version: they belong to no surviving history, even if a later recovery goes forward past them.
local function drop_policies_above(version)
  for _, v in ipairs(redis.call('HKEYS', POLICIES)) do
    if tonumber(v) > version then hdel(POLICIES, v) end
  end
end

local function take_policies(version, epoch)
  for v, by in pairs(given_policies) do hput(POLICIES, int_text(v), by) end
  local made_by = given_policies[version] or redis.call('HGET', POLICIES, int_text(version)) or epoch
  hput(POLICIES, int_text(version), made_by)
  set('version_epoch', made_by)
end

-- Chooses the cursor, and notes what the server does not know. A server that forgot no writes has every task up to its own cursor, and
-- keeps it. A server that forgot writes takes the checkpoint's cursor, and is known from this checkpoint: known_from is the checkpoint's
-- order, known_version its version. The server does not know the tasks between an older checkpoint and this one, nor which of those tasks
-- the steps between the two checkpoints consumed.
local function go_by(to, listed_order)
  if to.file_cursor then
    set('cursor', ARGV[9])
    if (field('supply') or '') ~= '' then set('supply', 'interrupted') end -- behind that cursor the feeder has more tasks
  end
  if to.older or to.version < num('known_version') then forget_finished() end
  set('known_version', math.min(num('known_version'), to.version))
  if to.forgot or to.older then
    set('known_from', math.max(to.file_cursor and 0 or num('known_from'), listed_order))
    set('known_version', to.version)
  end
  if to.forgot and to.file_cursor and num('order_seq') > to.common then forget_finished() end -- the server's history may have finished tasks that the loader brings again
  set('recover_listed', listed_order)
  set('recover_lineage', to.by_cursor and ARGV[14] or '')
  set('recover_order', to.common)
  set('recover_lost', to.by_cursor and 'cursor' or to.lost and 'numbers' or '')
end

local function go_to(to, epoch)
  local version = to.version
  set('recover_limit', to.limit)
  if state.recovering == '' then set('recover_open', num('step_next')) end -- the unsealed batch
  if version < num('floor') then
    forget_finished()
    set('floor', version)
  end
  set('recovering', version)
  set('version', version)
  set('step_next', version)
  set('recover_in_flight', ARGV[6])
  go_by(to, tonumber(ARGV[5]))
  set('blob', ARGV[10] == '1' and ARGV[11] or '')
  bump('blob_seq', 1)
  set('recoveries', recoveries_with(ARGV[13], epoch, version))
  for _, list in ipairs({ 'checkpoints', 'operator_checkpoints' }) do
    local kept = {}
    for v in (state[list] or ''):gmatch('%d+') do
      if tonumber(v) <= version then kept[#kept + 1] = v end
    end
    set(list, table.concat(kept, ' '))
  end
end

return run(function()
  local token, version = ARGV[2], int_arg(3, 'version', 0, MAX_VERSION)
  check_token(token)
  local listed_order = int_arg(5, 'listed_order', -1, MAX_INT)
  if ARGV[6] ~= 'keep' and ARGV[6] ~= 'requeue' then fail('BADARG', 'argument', 'in_flight', 'given', ARGV[6]) end
  local first_config = POLICIES_START + 2 * int_arg(12, 'policies', 0, 10000)
  for i = POLICIES_START, first_config - 1, 2 do given_policies[int_arg(i, 'policy', 0, version)] = ARGV[i + 1] end
  load_state(FIELDS, #ARGV >= first_config)
  local epoch = int_text(number_of(ARGV[4]) + 1) .. '.' .. token
  if not state.schema then
    create_run(epoch, first_config)
  else
    if state.epoch:match('%.(%w+)$') == token then return state.begin_answer end
    refuse_old_token(token)
    refuse_target(version, ARGV[4], ARGV[7] == '1', listed_order >= 0)
    epoch = int_text(math.max(number_of(ARGV[4]), number_of(state.epoch)) + 1) .. '.' .. token
    take_over(epoch)
  end
  if state.finished then set('finished', '') end
  if listed_order >= 0 then Awaited.forget() end
  local limit = common_limit(version)
  local lost = consumed_by_lost_steps(limit)
  drop_policies_above(math.min(version, num('version')))
  local answer = table.concat({ epoch, state.version, state.step_next, state.accepted, state.running,
    int_text(capacity()), lost }, ' ')
  bump('total_consumed', -lost)
  local to = plan_of(version, limit, listed_order, ARGV[14], ARGV[8] == '1')
  go_to(to, epoch)
  take_policies(version, epoch)
  set('begin_answer', answer)
  event('recover', int_text(version) .. ' ' .. epoch)
  flush()
  return answer
end)
