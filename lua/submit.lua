-- Takes results and verdicts of attempts. Only the attempt that holds its slot may submit, by equality of the attempt id.
-- Transition: held -> done or failed; the last slot: running -> ready, dead or rejected; no slot held or done any more, or too old: running -> pending, delayed or rejected
-- KEYS: state
-- ARGV: now, then per item: attempt, verdict (`a` accept, `r` reject), version, epoch (the newest policy used; empty: that of the claim), bytes (`i`: inline, `s`: the client stored them with SET before the call), body (the inline bytes; the reason of a reject)
-- Returns: a line for each item: `accepted`, `rejected`, `superseded attempt session age_ms`, `stale`, `unknown why`, `noresult`
-- Errors: NORUN, SCHEMA, BADARG
-- Bound: the items given, at most 256
-- Flags: allow-oom
-- @include refusal
-- @include result_bytes
-- @include verdicts

local FIELDS = hot_and({ 'timeouts', 'total_results' })

local ITEM = 6
local accepted = 0
local times = {} -- bucket -> how many of the attempts that this call accepts were held so long

-- Answers an attempt that does not hold its slot: repeats its own answer, or says why it is late. Deletes its bytes, unless they are those
-- of its accepted result.
local function refuse(attempt, verdict, how)
  local t, k, s, _, same = holder(attempt)
  if same and letter(t, k) == 'D' and verdict == 'a' then
    ResultBytes.store_again(t, attempt, how)
    return 'accepted'
  end
  if not (same and letter(t, k) == 'D') then ResultBytes.drop(attempt, how) end
  if same and Verdicts.rejected(s) and verdict == 'r' then return 'rejected' end
  bump('total_late', 1)
  local answer, why, by = refusal(attempt)
  event('late', attempt .. ' ' .. why .. ' ' .. by)
  return answer
end

-- Notes the newest policy that the worker used, if it is newer than the claim's.
local function use_newer(t, k, s, version, epoch)
  if version ~= s.newest and tonumber(version) > tonumber(s.newest) then
    s.newest, s.newest_epoch = version, epoch
    slot_changed(t, k, s)
  end
  if s.newest ~= t.newest and tonumber(s.newest) > tonumber(t.newest) then t.newest = s.newest end
end

-- Counts how long an accepted attempt was held. Bucket b of the hash `times` is for 2^(b/2) to 2^((b+1)/2) ms: it is the exponent of the
-- square, which math.frexp gives plus 1. The number of buckets is bounded by the clock's range.
local function note_time(s)
  local ms = math.max(1, now - s.at)
  local _, exponent = math.frexp(ms * ms)
  local bucket = small_text(exponent - 1)
  times[bucket] = (times[bucket] or 0) + 1
end

local function accept(t, k, s, attempt, at)
  zdel(SESSION .. s.session, attempt)
  Timeouts.clear(attempt)
  Quarantine.forget(s.session)
  set_letter(t, k, 'D')
  if s.why ~= '' then
    s.why = ''
    slot_changed(t, k, s)
  end
  ResultBytes.store(attempt, ARGV[at + 4], ARGV[at + 5])
  accepted = accepted + 1
  note_time(s)
  event('done', attempt .. ' ' .. s.newest)
  end_check(t, 'done')
  return 'accepted'
end

-- Submits the item in the arguments from `at` on, and returns its line of the answer.
local function submit(at)
  local attempt, verdict, version, epoch, how = ARGV[at], ARGV[at + 1], ARGV[at + 2], ARGV[at + 3], ARGV[at + 4]
  local t, k, s, holds = holder(attempt)
  if not holds then return refuse(attempt, verdict, how) end
  if version == '' then version, epoch = s.version, s.epoch else version = int_text(tonumber(version)) end
  if not surviving(version, epoch) then
    release_attempt(t, k, s)
    s.why = 'stale'
  elseif too_old(t.oldest) then
    stale_task(t)
  elseif verdict == 'r' then
    ResultBytes.drop(attempt, how)
    return Verdicts.reject(t, k, s, ARGV[at + 5])
  elseif ResultBytes.missing(attempt, how) then
    return 'noresult'
  else
    use_newer(t, k, s, version, epoch)
    return accept(t, k, s, attempt, at)
  end
  ResultBytes.drop(attempt, how)
  return 'stale'
end

return run(function()
  load_state(FIELDS)
  local n = (#ARGV - 1) / ITEM
  if n ~= math.floor(n) or n < 1 or n > 256 then
    fail('BADARG', 'argument', 'items', 'given', n, 'low', 1, 'high', 256)
  end
  local ids, answer = {}, {}
  for i = 1, n do
    local at = 2 + (i - 1) * ITEM
    Verdicts.check(ARGV[at + 1])
    ResultBytes.check(ARGV[at + 4])
    if ARGV[at + 2] ~= '' then int_arg(at + 2, 'version', 0, MAX_INT) end
    ids[i] = ARGV[at]
  end
  load_attempts(ids)
  for i = 1, n do answer[i] = submit(2 + (i - 1) * ITEM) end
  if accepted > 0 then bump('total_results', accepted) end
  ResultBytes.write()
  for bucket, count in pairs(times) do redis.call('HINCRBY', key('times'), bucket, count) end
  flush()
  return answer
end)
