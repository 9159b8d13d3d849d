-- @include attempts
-- Hands out slots to a session, and makes the answer for its worker.

local granted = { slots = {} } -- the tasks in the order they were handed out, and `slot claims tries ...` of each
local granted_count = 0

-- The parts of a claim that every slot record and attempt id repeats, as texts that are made once.
-- passed: how many tasks the claim passed over, because its session has just failed at their open slots, or because they want newer weights.
-- lags: batches wait, and the policy is not the newest. older: newer weights would get more.
local function new_claim(session, random, version, epoch, given)
  local version_text = int_text(version)
  local policy = version_text .. ',' .. epoch
  return {
    session = session, passed = 0, attempts = {}, older = false, lags = version < num('version') and Staleness.waits(),
    version = version, version_text = version_text, epoch = epoch, given = given,
    id_tail = '.' .. random, book = SESSION .. session, timeout = num('attempt_timeout_ms'), random = random,
    record_head = ',' .. random .. ',' .. policy .. ',' .. session .. ',' .. int_text(now) .. ',',
    record_tail = ',' .. policy,
    event_tail = ' ' .. version_text .. ' ' .. epoch .. ' ' .. session,
  }
end

-- Slot k of t becomes held by the session, with the policy of this claim. Its record keeps that the attempt before it expired.
-- Returns `slot claims tries`.
local function hold(t, k, claim)
  local name, slot = slot_name(t, k), small_text(k)
  local s, claims, tries = slot_of(t, k), '1', '0'
  if s then claims, tries = int_text(s.claims + 1), s.tries end
  local before = s and s.why == 'expired' and 'expired' or ''
  replace_slot(t, k, claims .. ',' .. tries .. claim.record_head .. before .. claim.record_tail)
  local attempt = name .. '.' .. claims .. claim.id_tail
  zput(claim.book, attempt, claim.version)
  Timeouts.begin(attempt, t, claim.timeout)
  event('claim', attempt .. claim.event_tail)
  claim.attempts[#claim.attempts + 1] = attempt
  return slot .. ' ' .. claims .. ' ' .. tries
end

-- Hands out up to n open slots of t that the session has not just failed at, in the order of their numbers. Returns whether some are left.
local function grant(t, n, claim)
  local letters, words, count, barred = t.letters, nil, 0, false
  local at = letters:find('O', 1, true)
  while at and count < n do
    if state.faulted and Failures.bars(t, at - 1, claim.session) then
      barred = true
    else
      local word = hold(t, at - 1, claim)
      words = words and words .. ' ' .. word or word
      letters = t.samples == 1 and 'H' or letters:sub(1, at - 1) .. 'H' .. letters:sub(at + 1)
      count = count + 1
    end
    at = letters:find('O', at + 1, true)
  end
  t.letters = letters
  if t.oldest == '-1' or claim.version < tonumber(t.oldest) then
    Staleness.moved(t.oldest, claim.version_text)
    t.oldest = claim.version_text
  end
  if claim.version > tonumber(t.newest) then t.newest = claim.version_text end
  changed(t)
  local n_granted = #granted + 1
  granted[n_granted], granted.slots[n_granted] = t, words
  granted_count = granted_count + count
  Samples.took(count)
  return barred or at ~= nil
end

-- Hands out up to n more open slots of a running task. Returns whether open slots are left.
local function grant_open(t, n, claim)
  if grant(t, n, claim) then return true end
  zdel(OPEN, t.id)
  return false
end

-- pending -> running: the task takes up capacity here, once, however many slots it has. first: the number of its first claim, as text.
-- Returns whether open slots are left.
local function start(t, n, claim, first)
  zdel(PENDING, t.id)
  t.state, t.first = 'R', first
  zput(RUNNING, t.id, first)
  event('start', t.id .. ' ' .. first)
  if not grant(t, n, claim) then return false end
  zput(OPEN, t.id, place(t))
  return true
end

-- Appends to the answer, per task: its id, payload, samples, and `slot claims tries` of each slot that was handed out.
local function add_granted(answer)
  local ids, at = {}, #answer
  for i = 1, #granted do ids[i] = granted[i].id end
  local payloads = hmget(PAYLOADS, ids)
  for i = 1, #granted do
    answer[at + 1], answer[at + 2] = ids[i], payloads[i] or ''
    answer[at + 3], answer[at + 4] = granted[i].samples, granted.slots[i]
    at = at + 4
  end
  return answer
end
