-- @include admission_owners
-- Applies an owner's report: its numbers, the version, a recovery, and at most one more slot promised to it.

local ADMISSION_FIELDS = hot_and({ 'admission', 'admission_at', 'admission_recoveries', 'epoch', 'total_rejected' })
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
    if o.deadline <= now and id ~= caller then expired[#expired + 1] = id end
  end
  for i = 1, #expired do end_owner(owners, expired[i], 'expired') end
  set('admission_at', now)
end

local function history() return state.epoch .. '/' .. int_text(num('admission_recoveries')) end

-- An owner that still reports its numbers from before another owner's recovery does not know of it: its version would open the capacity of a lost future.
local function take_version(o, given)
  if given < 0 or (given > num('version') and given == o.version and o.history ~= history()) then return end
  o.version, o.history = given, history()
  if given <= num('version') then return end
  set('version', given)
  set('step_next', given)
  event('advance', int_text(given) .. ' ' .. state.epoch)
end

-- accepted = version * B, plus the rollouts accepted after the announcement; running stays.
local function take_recovery(o, r)
  if r.recovery <= o.recovery then return end
  o.recovery = r.recovery
  bump('admission_recoveries', 1)
  set('version', r.recovered_to)
  set('step_next', r.recovered_to)
  set('accepted', r.recovered_to * batch_size() + r.accepted - r.accepted_then)
  event('recovered', state.version .. ' ' .. state.epoch)
end

local function take_numbers(o, r)
  bump('accepted', r.accepted - o.accepted)
  bump('total_rejected', r.rejected - o.rejected)
  for _, name in ipairs({ 'number', 'running', 'enqueued', 'accepted', 'rejected' }) do o[name] = r[name] end
  o.reserved = r.held
end

local function blocked() return state.paused ~= '' or state.recovering ~= '' end

local function total(owners)
  set('running', sum_of(owners, 'running'))
  set('admission_enqueued', sum_of(owners, 'enqueued'))
end

-- Slots that are free and promised to no owner.
local function spare(owners)
  return blocked() and 0 or capacity() - sum_of(owners, 'reserved')
end

-- Wakes one owner for each spare slot: first those that have rollouts to start, then those that have waited longest.
local function wake_owners(owners)
  local waiting, room = {}, spare(owners)
  for id, o in pairs(owners) do
    if o.waiting > 0 then waiting[#waiting + 1] = { id, o.enqueued > 0 and 0 or 1, o.waiting } end
  end
  table.sort(waiting, function(a, b)
    if a[2] ~= b[2] then return a[2] < b[2] end
    if a[3] ~= b[3] then return a[3] < b[3] end
    return a[1] < b[1]
  end)
  for i = 1, math.min(room, #waiting) do
    local id = waiting[i][1]
    owners[id].waiting = 0
    put_owner(id, owners[id])
    zput(wake_key(id), '1', 0)
  end
end
