-- @include attempts
-- Handing out slots, and the answer that tells the worker of them.

local granted = {} -- list of { task record, { slot numbers } }, in the order they were handed out
local granted_count = 0

-- Slot k of t becomes held by the session, with the policy of this claim.
local function hold(t, k, claim)
  local name = t.id .. '#' .. k
  local s = slots[name]
  if not s then
    s = { claims = 0, tries = 0 }
    slots[name] = s
  end
  s.claims, s.random, s.version, s.epoch = s.claims + 1, claim.random, claim.version, claim.epoch
  s.session, s.at, s.why, s.newest, s.newest_epoch = claim.session, now, '', claim.version, claim.epoch
  slot_changed(t, k, s)
  local attempt = attempt_id(t, k, s)
  zput(key('session:' .. claim.session), attempt, claim.version)
  if claim.timeout > 0 then
    if not field('timeouts') then set('timeouts', 1) end -- from now on, whatever the config becomes, attempts may have a deadline
    zput(DEADLINES, attempt, now + claim.timeout)
    due_at(now + claim.timeout)
  end
  event('claim', attempt .. ' ' .. claim.version_text .. ' ' .. claim.epoch .. ' ' .. claim.session)
  claim.attempts[#claim.attempts + 1] = attempt
end

-- Hands out up to n open slots of t, in the order of their numbers.
local function grant(t, n, claim)
  local numbers, letters = {}, t.letters
  local at = letters:find('O', 1, true)
  while at and #numbers < n do
    numbers[#numbers + 1] = at - 1
    at = letters:find('O', at + 1, true)
  end
  for i = 1, #numbers do
    hold(t, numbers[i], claim)
    letters = letters:sub(1, numbers[i]) .. 'H' .. letters:sub(numbers[i] + 2)
  end
  t.letters = letters
  if t.oldest < 0 or claim.version < t.oldest then t.oldest = claim.version end
  if claim.version > t.newest then t.newest = claim.version end
  if at then zput(OPEN, t.id, place(t)) else zdel(OPEN, t.id) end
  changed(t)
  granted[#granted + 1] = { t, numbers }
  granted_count = granted_count + #numbers
end

-- pending -> running: the task pays for itself here, once, however many slots it has.
local function start(t, n, claim)
  zdel(PENDING, t.id)
  t.state = 'R'
  bump('first_seq', 1)
  bump('running', 1)
  t.first = num('first_seq')
  zput(RUNNING, t.id, t.first)
  event('start', t.id .. ' ' .. state.first_seq)
  grant(t, n, claim)
end

-- The answer's tail: per task its id, payload, samples, and `slot claims tries` of each slot granted.
local function add_granted(answer)
  local ids = {}
  for i = 1, #granted do ids[i] = granted[i][1].id end
  local payloads = hmget(PAYLOADS, ids)
  for i = 1, #granted do
    local t, words = granted[i][1], {}
    for j, k in ipairs(granted[i][2]) do
      local s = slots[t.id .. '#' .. k]
      words[j] = k .. ' ' .. s.claims .. ' ' .. s.tries
    end
    local n = #answer
    answer[n + 1], answer[n + 2] = t.id, payloads[i] or ''
    answer[n + 3], answer[n + 4] = t.samples, table.concat(words, ' ')
  end
  return answer
end
