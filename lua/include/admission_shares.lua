-- @include admission_owners
-- The part of a batch that each owner of an admission run trains, and what it still needs for the step at hand.
-- One record for each owner, of words, apart from the owners' own: releases before this one leave it as it is.
--   given: what the owner said (-1: nothing, 0: it needs nothing of its own); share: what it has of the batch now;
--   base: its account is base + accepted, and share * version of that was trained; joined: counts the owners of the run;
--   unused: of an owner that has ended, what it had accepted and no step had trained;
--   since: what it had accepted when it announced the recovery that it announced last;
--   based: the history in which base holds; announced: the one whose recovery the owner itself announced.

local SHARES = key('owner_shares')
local SHARE_FIELDS = { 'given', 'share', 'base', 'joined', 'unused', 'since' }

local function put_share(id, o)
  local words = {}
  for i = 1, #SHARE_FIELDS do words[i] = int_text(o[SHARE_FIELDS[i]]) end
  words[#words + 1], words[#words + 2] = o.based, o.announced
  hput(SHARES, id, table.concat(words, ' '))
end

-- Adds an owner's share to its record; false: an earlier release counted it, which had none.
local function read_share(o, text)
  local words = {}
  for word in (text or ''):gmatch('%S+') do words[#words + 1] = word end
  for i, name in ipairs(SHARE_FIELDS) do o[name] = tonumber(words[i] or (name == 'given' and -1 or 0)) end
  o.based, o.announced = words[7] or history(), words[8] or '-'
  return text
end

local function account(o) return o.base + o.accepted end

-- A recovery that no owner announced, an operator's, says that everybody has trained as far as the run.
local function rebase(id, o)
  if o.based == history() then return end
  o.base, o.based, o.unused = o.share * num('version') - o.accepted, history(), 0
  put_share(id, o)
end

-- Shares that were given come first, by who joined first: one that does not fit waits for the lease of a dead owner.
-- The others split what is left. Whoever inherits a share has trained as far as the run with it.
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

-- Owners of an earlier release have what nobody has trained yet in equal parts.
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

-- What the owner lacks for the step at hand: its whole share where its reports are late and it is behind the run, for
-- what runs by those reports may be trained already.
local function need(o)
  return math.max(0, math.min(o.share, o.share * (num('version') + 1) - account(o) - o.running - o.reserved))
end

-- What all owners need together. Where shares were given, what they leave of the batch is the part of owners that have
-- not joined yet, or that died.
local function total_need(owners)
  local total, absent, any_given = 0, batch_size(), false
  for _, o in pairs(owners) do
    total, absent, any_given = total + need(o), absent - o.share, any_given or o.given > 0
  end
  return any_given and total + absent or total
end

-- How many rollouts the owner may start now: nobody takes what another needs for the step at hand.
local function room(owners, o)
  if blocked() then return 0 end
  local promised, by_concurrency, by_staleness = sum_of(owners, 'reserved'), capacity_terms()
  local left = (by_staleness or math.huge) - promised - (total_need(owners) - need(o))
  return math.min(by_concurrency - promised, left)
end

-- What a rank had accepted for steps that were not trained dies with it. Of an owner that did not say what it trains it
-- stays: somebody else may have it.
local function end_share(id, o)
  o.unused = o.given > 0 and math.max(0, account(o) - o.share * num('version')) or 0
  bump('accepted', -o.unused)
  o.base, o.share = o.unused - o.accepted, 0
  put_share(id, o)
end

-- An owner that ended and is there again has what it had.
local function revive_share(id, o)
  read_share(o, redis.call('HGET', SHARES, id))
  rebase(id, o)
  bump('accepted', o.unused)
  o.unused = 0
end

-- An owner's running and enqueued rollouts are nobody's any more.
local function end_owner(owners, id, why)
  local o = owners[id]
  owners[id] = nil
  end_share(id, o)
  o.running, o.enqueued, o.reserved, o.waiting = 0, 0, 0, 0
  put_owner(id, o)
  zdel(OWNER_LEASES, id)
  zput(ENDED_OWNERS, id, now)
  unlink(wake_key(id))
  event('leave', id .. ' ' .. why)
end
