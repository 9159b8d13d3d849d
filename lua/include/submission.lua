-- @include refusal
-- @include result_bytes
-- @include verdicts
-- What a submit does with a result or a verdict of an attempt.

-- The state fields that a script which submits reads.
local SUBMIT_FIELDS = hot_and({ 'want', 'timeouts', 'total_results', 'n_results', 'ms_results' })

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
  if same and letter(t, k) ~= 'D' then
    Lengths.late(attempt, s)
    slot_changed(t, k, s)
  end
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

local function accept(t, k, s, attempt, how, body)
  zdel(SESSION .. s.session, attempt)
  Timeouts.clear(attempt)
  Samples.gave_back()
  Quarantine.forget(s.session)
  set_letter(t, k, 'D')
  Lengths.done(s)
  slot_changed(t, k, s)
  ResultBytes.store(attempt, how, body)
  accepted = accepted + 1
  note_time(s)
  event('done', attempt .. ' ' .. s.newest)
  end_check(t, 'done')
  return 'accepted'
end

-- Submits a result or a verdict of an attempt, which must have been read. Returns its line of the answer.
-- version, epoch: as texts; empty: those of the claim. how, body: as in submit.lua.
local function submit_one(attempt, verdict, version, epoch, how, body)
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
    return Verdicts.reject(t, k, s, body)
  elseif ResultBytes.missing(attempt, how) then
    return 'noresult'
  else
    use_newer(t, k, s, version, epoch)
    return accept(t, k, s, attempt, how, body)
  end
  ResultBytes.drop(attempt, how)
  return 'stale'
end

-- Writes what was submitted, and everything else that the call decided.
local function flush_submitted()
  if accepted > 0 then
    bump('total_results', accepted)
    Lengths.count(accepted)
  end
  ResultBytes.write()
  for bucket, count in pairs(times) do redis.call('HINCRBY', key('times'), bucket, count) end
  flush(true)
end
