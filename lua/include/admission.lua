-- @include admission_shares
-- Applies an owner's report: its numbers, the version, a recovery, and at most one more slot promised to it.

local ADMISSION_FIELDS = hot_and({
  'admission', 'admission_at', 'admission_recoveries', 'admission_recovered_to', 'admission_joins', 'admission_life',
  'epoch', 'total_rejected',
})
local KIND = { 'field', 'kind', 'stored', 'tasks', 'given', 'admission' }

local function load_admission()
  load_state(ADMISSION_FIELDS)
  if not is_admission() then fail('CONFIG', unpack(KIND)) end
end

-- The report in the arguments from `from` on.
local function report_args(from)
  local r, at = { owner = ARGV[from] }, from
  local function next_int(name, low, high)
    at = at + 1
    return int_arg(at, name, low, high)
  end
  if #r.owner < 1 or #r.owner > 300 then fail('BADARG', 'argument', 'owner', 'given', r.owner) end
  r.lease = next_int('lease_ms', 1, 86400000)
  r.number = next_int('number', 1, MAX_INT)
  r.running = next_int('running', -MAX_INT, MAX_INT)
  r.enqueued = next_int('enqueued', -MAX_INT, MAX_INT)
  r.accepted = next_int('accepted', 0, MAX_INT)
  r.rejected = next_int('rejected', 0, MAX_INT)
  r.held = next_int('held', 0, 100000)
  r.asks = next_int('asks', 0, 1) == 1
  r.version = next_int('version', -1, MAX_INT)
  r.recovery = next_int('recovery', 0, MAX_INT)
  r.recovered_to = next_int('recovered_to', 0, MAX_INT)
  r.accepted_then = next_int('accepted_then', 0, MAX_INT)
  return r
end

-- Ends the owners whose lease has run out. In a silence of all owners, because the server or the network was away, none could renew.
-- Leases lose only a part of that silence: else the first owner to return would take the slots of all the others.
local function end_expired(owners, caller, lease)
  local silence = now - num('admission_at')
  local forgiven = num('admission_at') > 0 and silence > lease / 2 and silence - math.floor(lease / 3) or 0
  for id, o in pairs(owners) do
    if forgiven > 0 and id ~= caller then
      o.deadline = o.deadline + forgiven
      zput(OWNER_LEASES, id, o.deadline)
    end
  end
  local expired = {}
  for id, o in pairs(owners) do
    if id ~= caller and o.deadline <= now then expired[#expired + 1] = id end
  end
  for i = 1, #expired do end_owner(owners, expired[i], 'expired') end
  set('admission_at', now)
end

-- An owner that still reports its numbers from before another owner's recovery does not know of it: its version would open the capacity of a lost future.
local function take_version(o, given)
  if given < 0 or (given > num('version') and given == o.version and o.history ~= history()) then return end
  o.version, o.history = given, history()
  if given <= num('version') then return end
  set('version', given)
  set('step_next', given)
  event('advance', int_text(given) .. ' ' .. state.epoch)
end

-- From here on everybody has trained as far as the version, and what is not in `accepted` never was.
local function begin_history(owners, version, accepted)
  bump('admission_recoveries', 1)
  set('version', version)
  set('step_next', version)
  set('accepted', accepted)
  set('admission_life', num('admission_joins'))
  for id, o in pairs(owners) do rebase(id, o) end
  event('recovered', state.version .. ' ' .. state.epoch)
end

-- What an owner accepted after it announced a recovery is on top of what the recovery says.
local function count_since(id, o)
  o.base, o.announced = o.base + o.accepted - o.since, history()
  put_share(id, o)
end

local function others_announced(owners, o)
  for _, other in pairs(owners) do
    if other ~= o and other.announced == history() then return true end
  end
  return false
end

-- accepted = version * B, running untouched. The ranks of a training all announce its recovery: after the first each
-- says it of itself alone.
local function take_recovery(owners, o, r)
  if r.recovery <= o.recovery then return end
  o.recovery, o.since = r.recovery, r.accepted_then
  local is_heard = num('admission_recovered_to') == r.recovered_to and others_announced(owners, o)
  if is_heard and o.announced ~= history() then
    local before = account(o)
    o.base = o.share * r.recovered_to - o.accepted
    count_since(r.owner, o)
    bump('accepted', account(o) - before)
    return
  end
  set('admission_recovered_to', r.recovered_to)
  begin_history(owners, r.recovered_to, r.recovered_to * batch_size() + o.accepted - o.since)
  count_since(r.owner, o)
end

-- A training that was started again under the same name, maybe while leases of the one before lived. Nobody of that one
-- has reported since. It goes on from the version that the new owners recovered to, or that they are at; from 0 it
-- starts over, and what only the dead had is gone.
local function begin_life(owners, highest)
  set('admission_life', num('admission_joins'))
  local recovered, accepted = {}, 0
  for id, o in pairs(owners) do
    if o.announced == history() then recovered[#recovered + 1] = id end
  end
  if #recovered > 0 then
    local to = num('admission_recovered_to')
    for _, id in ipairs(recovered) do accepted = accepted + owners[id].accepted - owners[id].since end
    begin_history(owners, to, to * batch_size() + accepted)
    for _, id in ipairs(recovered) do count_since(id, owners[id]) end
    if highest > to then take_version({}, highest) end
  elseif highest == 0 then
    for _, o in pairs(owners) do accepted = accepted + o.accepted end
    if num('version') == 0 and num('accepted') == accepted then return end
    begin_history(owners, 0, accepted)
    for id, o in pairs(owners) do
      o.base = 0
      put_share(id, o)
    end
  end
end

-- Whoever reports beside owners that joined later is of one training with them. Where all that joined earlier have
-- ended, those that joined later are another.
local function take_life(owners, o, r)
  local life, highest = num('admission_life'), r.version
  if o.joined <= life then
    if life < num('admission_joins') then set('admission_life', num('admission_joins')) end
    return
  end
  for _, other in pairs(owners) do
    if other.joined <= life then return end
    if other ~= o then highest = math.max(highest, other.version) end
  end
  if r.version >= 0 then begin_life(owners, highest) end
end

local function take_numbers(o, r)
  bump('accepted', r.accepted - o.accepted)
  bump('total_rejected', r.rejected - o.rejected)
  for _, name in ipairs({ 'number', 'running', 'enqueued', 'accepted', 'rejected' }) do o[name] = r[name] end
  o.reserved = r.held
end

local function total(owners)
  set('running', sum_of(owners, 'running'))
  set('admission_enqueued', sum_of(owners, 'enqueued'))
end

-- Wakes one owner for each slot that is promised to nobody, of those that may take one: first those that have rollouts
-- to start, then those that have waited longest.
local function wake_owners(owners)
  local waiting, free = {}, capacity() - sum_of(owners, 'reserved')
  for id, o in pairs(owners) do
    if o.waiting > 0 and room(owners, o) > 0 then
      waiting[#waiting + 1] = { id, o.enqueued > 0 and 0 or 1, o.waiting }
    end
  end
  table.sort(waiting, function(a, b)
    if a[2] ~= b[2] then return a[2] < b[2] end
    if a[3] ~= b[3] then return a[3] < b[3] end
    return a[1] < b[1]
  end)
  for i = 1, math.min(free, #waiting) do
    local id = waiting[i][1]
    owners[id].waiting = 0
    put_owner(id, owners[id])
    zput(wake_key(id), '1', 0)
  end
end
