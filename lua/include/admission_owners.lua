-- @include writes
-- The owners of an admission run: processes that start rollouts on their own. The run counts these rollouts; each owner has a lease.
-- Each owner has one record of words. Its numbers are absolute: a repeated report changes nothing, and the next report makes up for a lost one.
--   number: of its newest report; running, enqueued: now; accepted, rejected: since it joined; reserved: slots promised to it;
--   recovery: number of the newest recovery that it announced; version: the newest that it reported; waiting: since when it waits for a slot (0: it does not);
--   history: in which it reported `version`
-- The records of the last ended owners stay, with 0 running and enqueued: an owner that was only suspended returns and counts nothing twice.

local OWNERS, OWNER_LEASES, ENDED_OWNERS = key('owners'), key('owner_leases'), key('ended_owners')
local MOST_OWNERS = 1000
local OWNER_FIELDS = {
  'number', 'running', 'enqueued', 'accepted', 'rejected', 'reserved', 'recovery', 'version', 'waiting',
}

local function owner_record(text)
  local o, i = {}, 0
  for word in text:gmatch('%S+') do
    i = i + 1
    if i <= #OWNER_FIELDS then o[OWNER_FIELDS[i]] = tonumber(word) else o.history = word end
  end
  return o
end

local function put_owner(id, o)
  local words = {}
  for i = 1, #OWNER_FIELDS do words[i] = int_text(o[OWNER_FIELDS[i]]) end
  words[#words + 1] = o.history
  hput(OWNERS, id, table.concat(words, ' '))
end

-- The owners that no script has ended: id -> record, with its `deadline`.
local function live_owners()
  local leases, ids, owners = redis.call('ZRANGE', OWNER_LEASES, 0, MOST_OWNERS - 1, 'WITHSCORES'), {}, {}
  for i = 1, #leases, 2 do ids[#ids + 1] = leases[i] end
  for i, text in ipairs(hmget(OWNERS, ids)) do
    owners[ids[i]] = owner_record(text)
    owners[ids[i]].deadline = tonumber(leases[2 * i])
  end
  return owners
end

local function sum_of(owners, name)
  local n = 0
  for _, o in pairs(owners) do n = n + o[name] end
  return n
end

-- The running rollouts that the owners report; 0 in a run of tasks. audit, repair and recover_commit add them to the running tasks.
local function admission_running()
  return Run.is_admission() and sum_of(live_owners(), 'running') or 0
end

-- Names the run's history: its epoch, and the number of recoveries so far. A report of an earlier history says nothing about this one.
local function history() return state.epoch .. '/' .. int_text(num('admission_recoveries')) end

local function blocked() return state.paused ~= '' or state.recovering ~= '' end
