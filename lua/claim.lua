-- Hands out work: open slots of running tasks first, then new tasks within capacity. Before that, takes back what is due, as requeue does.
-- Transition: pending -> running; an open slot -> held; those of requeue; too old: running -> pending, delayed or rejected
-- KEYS: state
-- ARGV: now, session, number (of this claim), n, version, epoch (the policy that the worker has loaded; empty: the run's current one), random, limit (of what is taken back), blob_seq (the number of the blob that the worker has; 0: none)
-- Returns: reason (why it handed out fewer than n; empty: it handed out n), due_in_ms (when to claim again; -1: no timer is set), version, epoch (of the attempts), run_version, run_epoch, blob_seq, blob (empty: there is none, or the worker has it), now, then per task: id, payload, samples, `slot claims tries ...`
-- Errors: NORUN, SCHEMA, NOSESSION, OLDREQUEST (number, last), BADARG
-- Bound: n slots, and limit of each kind that is taken back or reset; it stops taking back when the tasks that end or go back have 1000 slots together, and resetting likewise (finishing the last task each time); the sessions, once in ten seconds where no more samples may be held, and where fewer than none are
-- Flags: none
-- @include sweep
-- @include handout

local FIELDS = hot_and({ 'due', 'due_by_us', 'first_seq', 'blob_seq', 'attempt_timeout_ms', 'samples_hint' })

local function answer_head(reason, due_in, version_text, epoch)
  local seq, blob = num('blob_seq'), ''
  if seq ~= int_arg(9, 'blob_seq', 0, MAX_INT) then blob = redis.call('HGET', STATE, 'blob') or '' end
  return { reason, due_in, version_text, epoch, state.version, state.version_epoch, seq, blob, now }
end

-- In how many milliseconds to claim again: when a timer may be due, when the session's quarantine ends, or when the lease clock would stand
-- still if no call came; -1: no timer is set.
local function due_in(session)
  local first, entry = Due.stored(), Quarantine.of(session)
  local till = entry and entry.till > now and entry.till - now or math.huge
  if first > 0 then return math.max(0, math.min(first - now, lease_step, till)) end
  return till < math.huge and till or -1
end

-- Answers a repeated claim: with those of its attempts that the session still holds.
local function replay(words)
  local reason, version, epoch, random, rest = words:match('^(%S+) (%S+) (%S+) (%S+) ?(.*)$')
  local ids, places = {}, {}
  for id in rest:gmatch('%S+') do ids[#ids + 1] = id end
  if random ~= ARGV[7] then fail('BADARG', 'argument', 'random', 'given', ARGV[7]) end
  load_attempts(ids)
  for i = 1, #ids do
    local t, k, s, holds = holder(ids[i])
    if holds then
      local at, word = places[t.id] or #granted + 1, small_text(k) .. ' ' .. s.claims .. ' ' .. s.tries
      places[t.id], granted[at] = at, t
      granted.slots[at] = granted.slots[at] and granted.slots[at] .. ' ' .. word or word
    end
  end
  return add_granted(answer_head(reason == '-' and '' or reason, 0, version, epoch))
end

return run(function()
  load_state(FIELDS)
  local session, number, n = ARGV[2], int_arg(3, 'number', 1, MAX_INT), int_arg(4, 'n', 1, 1000)
  local given, limit = ARGV[5] ~= '', int_arg(8, 'limit', 1, 1000)
  if not ARGV[7]:find('^%w+$') or #ARGV[7] > 64 then fail('BADARG', 'argument', 'random', 'given', ARGV[7]) end
  local call = redis.call('HGET', CALLS, session)
  if not call then fail('NOSESSION', 'session', session) end
  local last, lease, words = call:match('^(%d+) (%d+) ?(.*)$')
  if tonumber(last) == number then return replay(words) end
  if tonumber(last) > number then fail('OLDREQUEST', 'number', int_text(number), 'last', last) end
  local version = given and int_arg(5, 'version', 0, MAX_INT) or num('version')
  zput(SESSIONS, session, lease_end(lease))
  if is_due() then
    flush()
    sweep(limit)
  end
  local claim = new_claim(session, ARGV[7], version, given and ARGV[6] or state.version_epoch, given)
  local reason = hand_out(n, limit, claim)
  hput(CALLS, session, ARGV[3] .. ' ' .. lease .. ' ' .. (reason or '-') .. ' ' .. claim.version_text .. ' '
    .. claim.epoch .. ' ' .. claim.random .. ' ' .. table.concat(claim.attempts, ' '))
  local answer = answer_head(reason or '', due_in(session), claim.version_text, claim.epoch)
  flush(true)
  return add_granted(answer)
end)
