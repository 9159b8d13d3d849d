-- @include grant
-- Chooses the work that a claim hands out: open slots first, then new tasks within capacity.

local Left = {}
Left.open, Left.pending = nil, nil -- whether open slots, and pending tasks, are left after the claim; nil: not known
local started, used_up = 0, 0 -- tasks that this claim takes out of `pending`, and out of `open`

-- How many tasks to read for this many slots: one more than needed if each task has as many slots as the first task of the last enqueue.
local function page_size(slots_wanted)
  return math.ceil(slots_wanted / math.max(1, num('samples_hint'))) + 1
end

-- Reads at most `wanted` tasks of the set `name` from `offset` on, with their open slots. Returns them, and how many ids there were (up to `size`).
local function read_page(name, offset, size, wanted)
  local ids, page, names = redis.call('ZRANGE', name, offset, offset + size - 1), {}, {}
  local there = #ids
  for i = wanted + 1, there do ids[i] = nil end
  load_tasks(ids)
  if state.faulted then Failures.load(ids) end
  for i = 1, #ids do
    local t = tasks[ids[i]]
    page[i] = t
    if t.first ~= '0' or t.again ~= '0,0' then -- else no slot was ever claimed
      for k = 1, t.samples - 1 do
        if letter(t, k) == 'O' then names[#names + 1] = slot_name(t, k) end
      end
    end
  end
  if #names > 0 then load_slots(names) end
  return page, there
end

-- Hands out open slots, in the order of their tasks. Resets the tasks among them that are too old: at most `limit` tasks, and until
-- 1000 slots were reset.
local function claim_open(n, limit, claim)
  local offset, resets = 0, 0
  while granted_count < n and resets < limit and claim.passed < limit and not cleared_enough() do
    local size = page_size(n - granted_count)
    local page, there = read_page(OPEN, offset, size, size)
    for i = 1, there do
      if granted_count >= n or resets >= limit or claim.passed >= limit or cleared_enough() then
        Left.open = true
        break
      elseif too_old(page[i].oldest) then
        resets = resets + 1
        stale_task(page[i])
      elseif claim.lags and claim.version < tonumber(page[i].oldest) then
        claim.passed, Left.open, claim.older = claim.passed + 1, true, true
      elseif Failures.bars_all(page[i], claim.session) then
        claim.passed, Left.open = claim.passed + 1, true
      else
        if grant_open(page[i], n - granted_count, claim) then Left.open = true else used_up = used_up + 1 end
      end
    end
    if there < size then
      if Left.open == nil and resets == 0 then Left.open = false end
      break
    end
    offset = offset + size
  end
  if resets > 0 then
    flush()
    used_up = 0
  end
end

-- Starts pending tasks within capacity; none if the claim's policy is too old.
local function claim_pending(n, limit, claim)
  local room, offset, first, passed_before = capacity(), 0, num('first_seq'), claim.passed
  if too_old(claim.version) then room = 0 end
  local own_room = claim.lags and math.min(room, Staleness.room(claim.version, num('open_size'))) or room
  while granted_count < n and Left.pending == nil do
    local wanted = math.min(n - granted_count, own_room - started) -- each task gives one slot at least
    local size = wanted > 0 and page_size(n - granted_count) or 1
    local page, there = read_page(PENDING, offset, size, math.max(0, wanted))
    local looked = there
    for i = 1, there do
      if granted_count >= n or started >= own_room or claim.passed >= limit then
        Left.pending = true
        if granted_count < n and started < room and claim.passed < limit then
          claim.passed, claim.older = claim.passed + 1, true
        end
        break
      elseif not page[i] then -- tasks before it were passed over: it is read with the next page
        looked = i - 1
        break
      elseif Failures.bars_all(page[i], claim.session) then
        claim.passed = claim.passed + 1
      else
        started = started + 1
        if start(page[i], n - granted_count, claim, int_text(first + started)) then Left.open = true end
      end
    end
    if looked == there and there < size and not Left.pending then Left.pending = claim.passed > passed_before end
    offset = offset + looked
  end
  if started > 0 then
    bump('first_seq', started)
    bump('running', started)
  end
end

-- Whether the claim leaves open slots, and whether it leaves pending tasks.
Left.is_open = function()
  if Left.open == nil then Left.open = redis.call('ZCARD', OPEN) > used_up end
  return Left.open
end

Left.is_pending = function()
  if Left.pending == nil then Left.pending = redis.call('ZCARD', PENDING) > started end
  return Left.pending
end

Left.reason = function(claim)
  if claim.older then return 'weights_stale' end
  if claim.passed > 0 then return 'faulted' end
  local free, is_draining = Samples.free(), state.paused == 'draining'
  if free and free <= 0 and (Left.is_open() or (not is_draining and Left.is_pending())) then return 'max_samples' end
  if is_draining then return 'draining' end
  if Left.pending == false then return 'empty' end
  local by_concurrency = capacity_terms()
  if by_concurrency <= 0 then return 'max_concurrent' end
  return 'at_capacity'
end

-- Passes the wake-up of this worker on if the claim leaves work: open slots, and with `or_pending` pending tasks.
local function pass_on(or_pending)
  Markers.pass_on(Left.is_open(), or_pending and Left.is_pending())
end

-- Workers of earlier releases do not count the slots that they hold. So a claim that finds none free counts them anew, at most every
-- ten seconds; at once where fewer than none are held, because ends of such slots were counted.
Samples.count_again = function()
  local free = Samples.free()
  if not free or num('held') >= 0 and (free > 0 or now - num('held_at') < 10000) then return end
  flush()
  set('held', Samples.count())
  set('held_at', now)
end

-- Returns the reason for handing out less than n, or nil.
local function hand_out(n, limit, claim)
  if state.finished then
    Markers.arm_finished() -- the next worker that waits is told, too
    return 'finished'
  end
  if state.halted then return 'halted' end
  if state.paused == 'paused' then return 'paused' end
  if state.recovering ~= '' then return 'recovering' end
  local most = Quarantine.most(claim.session, n)
  if most == 0 then
    pass_on(true) -- the marker that woke this worker is for another one
    return 'quarantined'
  end
  if not surviving(claim.version_text, claim.epoch) or (claim.given and too_old(claim.version)) then
    Markers.arm_for_work() -- the marker that woke this worker is for one with newer weights
    return 'weights_stale'
  end
  Samples.count_again()
  local room = math.max(0, math.min(most, Samples.free() or most))
  if room > 0 then
    claim_open(room, limit, claim)
    if state.paused ~= 'draining' then claim_pending(room, limit, claim) end
  end
  pass_on(granted_count >= room or claim.passed > 0)
  if granted_count >= n then return nil end
  return granted_count < most and Left.reason(claim) or 'quarantined'
end
