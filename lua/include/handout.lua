-- @include grant
-- What a claim hands out: open slots first, then new tasks within capacity.

local still_open, still_pending = false, nil -- whether something of the kind is left after the claim; nil: not looked

-- How many tasks to read for this many slots: one more than needed when tasks are as large as the last one enqueued.
local function page_size(slots_wanted)
  return math.ceil(slots_wanted / math.max(1, num('samples_hint'))) + 1
end

local function load_slots_for(page)
  local names = {}
  for i = 1, #page do
    local t = page[i]
    if t.requeues > 0 or t.first > 0 then -- else no slot was ever claimed
      for k = 0, t.samples - 1 do
        if letter(t, k) == 'O' then names[#names + 1] = t.id .. '#' .. k end
      end
    end
  end
  load_slots(names)
end

-- The tasks of name from offset on, with the slots that may be handed out.
local function read_page(name, offset, size)
  local ids = redis.call('ZRANGE', name, offset, offset + size - 1)
  load_tasks(ids)
  local page = {}
  for i = 1, #ids do page[i] = tasks[ids[i]] end
  load_slots_for(page)
  return page
end

-- Open slots, in the order of their tasks; tasks met that are too old are reset, at most limit of them.
local function claim_open(n, limit, claim)
  local offset, resets = 0, 0
  while granted_count < n and resets < limit do
    local size = page_size(n - granted_count)
    local page = read_page(OPEN, offset, size)
    for i = 1, #page do
      if granted_count >= n or resets >= limit then
        still_open = true
        break
      elseif too_old(page[i].oldest) then
        resets = resets + 1
        stale_task(page[i])
      else
        grant(page[i], n - granted_count, claim)
      end
    end
    if #page < size then break end
    offset = offset + size
  end
  if resets > 0 then flush() end
end

local function claim_pending(n, claim)
  local offset = 0
  while granted_count < n do
    local size = page_size(n - granted_count)
    if capacity() <= 0 or too_old(claim.version) then size = 1 end
    local page = read_page(PENDING, offset, size)
    for i = 1, #page do
      if granted_count >= n or capacity() <= 0 or too_old(claim.version) then
        still_pending = true
        return
      end
      start(page[i], n - granted_count, claim)
    end
    if #page < size then
      still_pending = false
      return
    end
    offset = offset + size
  end
end

local function why_less()
  if state.paused == 'draining' then return 'draining' end
  if still_pending == false then return 'empty' end
  local by_concurrency = capacity_terms()
  if by_concurrency <= 0 then return 'max_concurrent' end
  return 'at_capacity'
end

-- One wake-up passes from worker to worker: a claim that leaves work that could be claimed arms the marker again.
local function pass_on()
  if still_open or redis.call('ZCARD', OPEN) > 0 then arm_for_open_slot() end
  local waiting = still_pending
  if waiting == nil then waiting = redis.call('ZCARD', PENDING) > 0 end
  if waiting and capacity() > 0 then arm_workers() end
end

-- Returns the reason for handing out less than n, or nil.
local function hand_out(n, limit, claim)
  if state.paused == 'paused' then return 'paused' end
  if state.recovering ~= '' then return 'recovering' end
  if not surviving(claim.version, claim.epoch) or (claim.given and too_old(claim.version)) then
    arm_for_open_slot() -- the marker that woke this worker is another one's
    return 'weights_stale'
  end
  claim_open(n, limit, claim)
  if state.paused ~= 'draining' then claim_pending(n, claim) end
  if granted_count < n then return why_less() end
  flush()
  pass_on()
  return nil
end
