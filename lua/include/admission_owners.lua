-- @include writes
-- The owners of an admission run: processes that start rollouts on their own and are counted here, each under a lease.
-- One record for each owner, of words: absolute numbers, so that the same report twice, or a report after others were lost, comes out right.
--   number: of its newest report; running, enqueued: now; accepted, rejected: since it joined; reserved: slots promised to it;
--   recovery: number of the newest recovery that it announced; version: the newest that it reported, in which history; waiting: since when (0: no)
-- The records of ended owners stay for a while, at 0 running and enqueued: one that was only asleep comes back without counting anything twice.

local OWNERS, OWNER_LEASES, ENDED_OWNERS = key('owners'), key('owner_leases'), key('ended_owners')
local MOST_OWNERS = 1000
local OWNER_FIELDS = {
  'number', 'running', 'enqueued', 'accepted', 'rejected', 'reserved', 'recovery', 'version', 'waiting',
}

local function is_admission() return field('admission') == '1' end

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

-- The owners whose leases were not found to have run out: id -> record, with its `deadline`.
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

-- What audit, repair and recover_commit add to the running tasks: 0 in a run of tasks.
local function admission_running()
  return is_admission() and sum_of(live_owners(), 'running') or 0
end

-- Which recoveries the run has seen: what was reported before the newest says nothing about now.
local function history() return state.epoch .. '/' .. int_text(num('admission_recoveries')) end

local function blocked() return state.paused ~= '' or state.recovering ~= '' end

local function wake_key(id) return key('wake:owner:' .. id) end
