-- Makes a process an owner of an admission run; creates a run that does not exist. Ends the owners whose leases have run out.
-- Transition: none of a task
-- KEYS: state
-- ARGV: now, owner (the caller chooses it and never uses it again: so a repeated call is recognised), lease_ms, token (of the epoch, if the run is created), lost_version (if the run is created: the version from which it goes on, because the caller knew the run and the server lost it; -1: 0), update (1: change a config that differs), accepted, rejected, recovery (those of the process's reports that the run counted before, under another owner id), share (rollouts of a batch that it trains; 0: none of its own; -1: as many as the others), version (its provider's; -1: not known), then pairs of config field, value (those that the caller set)
-- Returns: `version accepted created`
-- Errors: SCHEMA, CONFIG (field, stored, given; field `kind`: the run is a run of tasks), BADARG
-- Bound: the number of config fields and owners; 100 ended owners
-- Flags: none
-- @include creation
-- @include admission

local CONFIG_START = 12

local function create(token, lost_version)
  create_run('1.' .. token, CONFIG_START)
  if lost_version >= 0 then
    set('version', lost_version)
    set('step_next', lost_version)
    set('accepted', lost_version * batch_size())
  end
end

-- `accepted` counts version * B for the steps trained so far, so a changed batch size changes it.
local function agree(update)
  local before = Config.agree(CONFIG_START, update)
  if batch_size() ~= before then bump('accepted', num('version') * (batch_size() - before)) end
end

-- Keeps the last 1000 owners that ended.
local function forget_ended()
  local over = math.min(100, redis.call('ZCARD', ENDED_OWNERS) - 1000)
  local old = over > 0 and redis.call('ZRANGE', ENDED_OWNERS, 0, over - 1) or {}
  for i = 1, #old do
    zdel(ENDED_OWNERS, old[i])
    hdel(OWNERS, old[i])
    hdel(SHARES, old[i])
  end
end

return run(function()
  local id, lease, lost_version = ARGV[2], int_arg(3, 'lease_ms', 1, 86400000), int_arg(5, 'lost_version', -1, MAX_INT)
  if #id > 300 or not id:find('^[%w%._:/@+~-]+$') then fail('BADARG', 'argument', 'owner', 'given', id) end
  check_token(ARGV[4])
  load_state(ADMISSION_FIELDS, true)
  local owner = { number = 0, running = 0, enqueued = 0, reserved = 0, version = -1, waiting = 0 }
  for i, name in ipairs({ 'accepted', 'rejected', 'recovery' }) do owner[name] = int_arg(6 + i, name, 0, MAX_INT) end
  local share, version = int_arg(10, 'share', -1, MAX_INT), int_arg(11, 'version', -1, MAX_INT)
  local created = not state.schema
  if created then
    create(ARGV[4], lost_version)
  elseif not Run.is_admission() and redis.call('HLEN', TASKS) + redis.call('HLEN', BATCHES) > 0 then
    fail('CONFIG', unpack(KIND))
  else
    agree(ARGV[6] == '1')
  end
  -- Ends expired owners here too. If all owners died, no report would end them, and repeated restarts would fill the run with owners.
  local owners = live_owners()
  load_shares(owners)
  end_expired(owners, id, lease)
  assign_shares(owners)
  local n = total(owners)
  if not redis.call('HGET', OWNERS, id) then
    if n >= MOST_OWNERS then
      fail('BADARG', 'argument', 'owners', 'given', MOST_OWNERS + 1, 'high', MOST_OWNERS)
    end
    set('admission', 1)
    owner.history = history()
    put_owner(id, owner)
    bump('admission_joins', 1)
    if created or owner.accepted + owner.rejected + owner.recovery > 0 then
      set('admission_life', num('admission_joins'))
    end
    put_share(id, {
      given = share, share = 0, base = -owner.accepted, joined = num('admission_joins'), unused = 0, since = 0,
      based = owner.history, announced = '-', first = version,
      found = num('version'),
    })
    zput(OWNER_LEASES, id, now + lease)
    event('join', id)
    forget_ended()
  end
  wake_owners(owners)
  flush()
  return table.concat({ state.version, state.accepted, created and 1 or 0 }, ' ')
end)
