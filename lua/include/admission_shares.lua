-- @include admission_owners
-- The share of a batch that each owner of an admission run trains, and the rollouts that the owner still needs for this step.
-- Each owner has one record of words, apart from its record in `owners`: earlier releases leave this record as it is.
--   given: the share that the owner asked for (-1: none was named, 0: it needs no share); share: the share that it has now;
--   base: `base + accepted` is the owner's account, of which `share * version` rollouts were trained; joined: its number in the order of joining;
--   unused: of an ended owner, the rollouts that it had accepted and no step had trained;
--   since: how many rollouts it had accepted when it announced its newest recovery;
--   based: the history in which `base` holds; announced: the history that began with a recovery which this owner announced;
--   first: the version with which the owner joined, until its first report that has one (-1: it said none, as earlier
--   releases do not when they join); found: the run's version then, or that to which it has been recovered since.

local SHARES = key('owner_shares')
local SHARE_FIELDS = { 'given', 'share', 'base', 'joined', 'unused', 'since' }

local function put_share(id, o)
  local words = {}
  for i = 1, #SHARE_FIELDS do words[i] = int_text(o[SHARE_FIELDS[i]]) end
  words[#words + 1], words[#words + 2] = o.based, o.announced
  words[#words + 1], words[#words + 2] = int_text(o.first), int_text(o.found)
  hput(SHARES, id, table.concat(words, ' '))
end

-- Adds an owner's share record to its record. Returns a false value if an earlier release, which has no shares, made the owner.
local function read_share(o, text)
  local words = {}
  for word in (text or ''):gmatch('%S+') do words[#words + 1] = word end
  for i, name in ipairs(SHARE_FIELDS) do o[name] = tonumber(words[i] or (name == 'given' and -1 or 0)) end
  o.based, o.announced = words[7] or history(), words[8] or '-'
  o.first, o.found = tonumber(words[9] or -1), tonumber(words[10] or 0)
  return text
end

local function account(o) return o.base + o.accepted end

-- After a recovery that this owner did not announce, the owner counts as having trained its share of every step of the run.
local function rebase(id, o)
  if o.based == history() then return end
  o.base, o.based, o.unused, o.found = o.share * num('version') - o.accepted, history(), 0, num('version')
  put_share(id, o)
end

-- Owners that asked for a share get theirs first, in the order of joining, as far as the batch reaches: the rest waits until
-- a dead owner's lease has passed. The other owners split what is left. A share that an owner inherits counts as trained as far as the run.
local function assign_shares(owners)
  local given, others, left = {}, {}, batch_size()
  for id, o in pairs(owners) do
    local list = o.given < 0 and others or given
    list[#list + 1] = { id = id, o = o }
  end
  local function by_joining(a, b)
    if a.o.joined ~= b.o.joined then return a.o.joined < b.o.joined end
    return a.id < b.id
  end
  local function assign(one, share)
    left = left - share
    if share ~= one.o.share then
      one.o.base, one.o.share = one.o.base + num('version') * (share - one.o.share), share
      put_share(one.id, one.o)
    end
  end
  table.sort(given, by_joining)
  table.sort(others, by_joining)
  for i = 1, #given do assign(given[i], math.min(given[i].o.given, left)) end
  for i = 1, #others do assign(others[i], math.ceil(left / (#others - i + 1))) end
end

-- Owners of an earlier release have no accounts: they get equal parts of the accepted rollouts that no step has trained yet.
local function load_shares(owners)
  local ids, unknown = {}, {}
  for id in pairs(owners) do ids[#ids + 1] = id end
  for i, text in ipairs(hmget(SHARES, ids)) do
    if not read_share(owners[ids[i]], text) then unknown[#unknown + 1] = owners[ids[i]] end
    rebase(ids[i], owners[ids[i]])
  end
  local untrained = math.max(0, num('accepted') - num('version') * batch_size())
  for _, o in ipairs(unknown) do o.base = math.floor(untrained / #unknown) - o.accepted end
end

-- How many rollouts the owner lacks for this step. It is at most the share: the reports of an owner that is behind the run are
-- late, and its running rollouts may be trained already.
local function need(o)
  return math.max(0, math.min(o.share, o.share * (num('version') + 1) - account(o) - o.running - o.reserved))
end

-- How many rollouts all owners need together. If an owner asked for a share, the rest of the batch that no share covers is
-- needed too: by owners that have not joined yet, or that died.
local function total_need(owners)
  local total, absent, any_given = 0, batch_size(), false
  for _, o in pairs(owners) do
    total, absent, any_given = total + need(o), absent - o.share, any_given or o.given > 0
  end
  return any_given and total + absent or total
end

-- How many rollouts the owner may start now: no owner takes a slot that another owner needs for this step.
local function room(owners, o)
  if blocked() then return 0 end
  local promised, by_concurrency, by_staleness = sum_of(owners, 'reserved'), capacity_terms()
  local left = (by_staleness or math.huge) - promised - (total_need(owners) - need(o))
  return math.min(by_concurrency - promised, left)
end

-- If the owner asked for a share, the rollouts that it accepted and no step trained are lost with the process: they leave
-- `accepted`. The rollouts of an owner without a share of its own stay counted, because another process may have them.
local function end_share(id, o)
  o.unused = o.given > 0 and math.max(0, account(o) - o.share * num('version')) or 0
  bump('accepted', -o.unused)
  o.base, o.share = o.unused - o.accepted, 0
  put_share(id, o)
end

-- An ended owner that reports again gets its account back.
local function revive_share(id, o)
  read_share(o, redis.call('HGET', SHARES, id))
  rebase(id, o)
  bump('accepted', o.unused)
  o.unused = 0
end

-- Ends an owner: its running and enqueued rollouts, and the slots promised to it, no longer count.
local function end_owner(owners, id, why)
  local o = owners[id]
  owners[id] = nil
  end_share(id, o)
  o.running, o.enqueued, o.reserved, o.waiting = 0, 0, 0, 0
  put_owner(id, o)
  zdel(OWNER_LEASES, id)
  zput(ENDED_OWNERS, id, now)
  unlink(WAKE .. ':owner:' .. id)
  event('leave', id .. ' ' .. why)
end
