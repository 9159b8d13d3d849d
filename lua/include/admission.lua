-- @include admission_shares
-- Applies an owner's report to an admission run: its numbers, its version, its recovery. Wakes owners that wait for a slot.

local ADMISSION_FIELDS = hot_and({
  'admission', 'admission_at', 'admission_recoveries', 'admission_recovered_to', 'admission_joins', 'admission_life',
  'epoch', 'total_rejected',
})
local KIND = { 'field', 'kind', 'stored', 'tasks', 'given', 'admission' }

local function load_admission()
  load_state(ADMISSION_FIELDS)
  if not Run.is_admission() then fail('CONFIG', unpack(KIND)) end
end

-- Reads the report that begins at argument `from`.
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

-- Ends the owners whose leases have run out. If no owner called for longer than half of the caller's lease, the server or the network
-- was absent, and no owner could renew. Then each lease loses a third of the caller's lease, not the whole silence.
-- Else the first owner to return would take the slots of all the others.
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

-- An owner may report the same version as before, above the run's, after another owner's recovery lowered the run's version.
-- That owner does not know of the recovery yet. The run ignores its version, which would open the capacity of a lost future.
local function take_version(o, given)
  if given < 0 or (given > num('version') and given == o.version and o.history ~= history()) then return end
  o.version, o.history = given, history()
  if given <= num('version') then return end
  set('version', given)
  set('step_next', given)
  event('advance', int_text(given) .. ' ' .. state.epoch)
end

-- Begins a new history: every owner counts as having trained up to `version`, and the run's count of accepted rollouts is `accepted`.
local function begin_history(owners, version, accepted)
  bump('admission_recoveries', 1)
  set('version', version)
  set('step_next', version)
  set('accepted', accepted)
  set('admission_life', num('admission_joins'))
  for id, o in pairs(owners) do rebase(id, o) end
  event('recovered', state.version .. ' ' .. state.epoch)
end

-- Adds to an owner's account the rollouts that it accepted after it announced its recovery.
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

-- A recovery sets `accepted` to version * B plus what its owner accepted since it announced it; `running` stays. All ranks of
-- a training announce its recovery. The first announcement changes the run; each later one changes that owner's account alone.
-- An owner that joined after the run had gone on (`found`) did not train the steps before.
local function take_recovery(owners, o, r)
  if r.recovery <= o.recovery then return end
  o.recovery, o.since = r.recovery, r.accepted_then
  local is_heard = num('admission_recovered_to') == r.recovered_to and others_announced(owners, o)
  if is_heard and o.announced ~= history() then
    local before = account(o)
    o.base = o.share * math.max(r.recovered_to, o.found) - o.accepted
    count_since(r.owner, o)
    bump('accepted', account(o) - before)
    return
  end
  set('admission_recovered_to', r.recovered_to)
  begin_history(owners, r.recovered_to, r.recovered_to * batch_size() + o.accepted - o.since)
  count_since(r.owner, o)
end

-- Takes the run back to where the new training is, which may have trained steps since, up to `highest`. Rollouts of the ended
-- owners no longer count. An owner counts as having trained all steps before its first report; one that has not reported, before the
-- first report of another (`began`). An owner with fewer accepted rollouts than its steps took did not train them here: its share of
-- these steps counts as trained. An owner that is a step behind has not reported all that it accepted yet.
local function go_back(owners, r, began, highest)
  local bases, accepted = {}, highest * batch_size()
  for id, o in pairs(owners) do
    local version = id == r.owner and r.version or o.version
    local first = o.first < 0 and began or o.first
    bases[id] = math.max(o.share * first, o.share * math.max(version, highest - 1) - o.accepted)
    accepted = accepted + bases[id] + o.accepted - o.share * highest
  end
  if num('version') ~= highest or num('accepted') ~= accepted then begin_history(owners, highest, accepted) end
  for id, o in pairs(owners) do
    o.base = bases[id]
    put_share(id, o)
  end
end

-- Begins a new life of the run: a training was started again under the same name, perhaps before the earlier leases had passed.
-- No owner of the earlier training has reported since. If new owners announced a recovery, the run goes on from the version
-- that they recovered to, or from the highest version that they report. If none did, and each began at version 0 or behind the run,
-- the run goes back to them. Else nothing changes.
local function begin_life(owners, r, highest)
  set('admission_life', num('admission_joins'))
  local recovered, accepted, began, goes_back = {}, 0, highest, true
  for id, o in pairs(owners) do
    if o.announced == history() then recovered[#recovered + 1] = id end
    if o.first >= 0 then began = math.min(began, o.first) end
    goes_back = goes_back and (o.first <= 0 or o.first < o.found)
  end
  if #recovered > 0 then
    local to = num('admission_recovered_to')
    for _, id in ipairs(recovered) do accepted = accepted + owners[id].accepted - owners[id].since end
    begin_history(owners, to, to * batch_size() + accepted)
    for _, id in ipairs(recovered) do count_since(id, owners[id]) end
    if highest > to then take_version({}, highest) end
  elseif goes_back then
    go_back(owners, r, began, highest)
  end
end

-- An owner reports after others joined: those are of one training with it. But an owner that began behind the run is not, nor is any
-- that joined after it: another training goes on beside a process of the earlier one that still reports.
local function adopt(owners)
  local life = num('admission_joins')
  for _, o in pairs(owners) do
    local is_new = o.joined > num('admission_life')
    if is_new and (o.first < 0 or o.first < o.found) then life = math.min(life, o.joined - 1) end
  end
  if num('admission_life') < life then set('admission_life', life) end
end

-- If all owners that joined before have ended, those that joined later are another training.
local function take_life(owners, o, r)
  if (o.first < 0 or o.version < 0) and r.version >= 0 then
    o.first, o.found = r.version, num('version')
    put_share(r.owner, o)
  end
  local life, highest = num('admission_life'), r.version
  if o.joined <= life then return adopt(owners) end
  for _, other in pairs(owners) do
    if other.joined <= life then return end
    if other ~= o then highest = math.max(highest, other.version) end
  end
  if r.version >= 0 then begin_life(owners, r, highest) end
end

local function take_numbers(o, r)
  bump('accepted', r.accepted - o.accepted)
  bump('total_rejected', r.rejected - o.rejected)
  for _, name in ipairs({ 'number', 'running', 'enqueued', 'accepted', 'rejected' }) do o[name] = r[name] end
  o.reserved = r.held
end

-- Sets the run's counters to the sums over the owners. Returns how many owners have not ended.
local function total(owners)
  set('running', sum_of(owners, 'running'))
  set('admission_enqueued', sum_of(owners, 'enqueued'))
  local n = 0
  for _ in pairs(owners) do n = n + 1 end
  return n
end

-- Wakes one waiting owner for each slot that is promised to nobody, if the owner may take one. Owners that have rollouts
-- to start come first, then those that have waited longest.
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
    Markers.arm_owner(id)
  end
end
