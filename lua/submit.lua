-- Results and verdicts of attempts. Accepted only from the attempt that holds its slot, by equality of the attempt id.
-- Transition: held -> done or failed; the last slot: running -> ready, dead or rejected; too old: running -> pending or rejected
-- KEYS: state
-- ARGV: now, then per item: attempt, verdict (`a` accept, `r` reject), version, epoch (newest policy used; empty: that of the claim), bytes (`i` inline, `s` SET before the call), body (the inline bytes; the reason of a reject)
-- Returns: a line an item: `accepted`, `rejected`, `superseded attempt session age_ms`, `stale`, `unknown why`, `noresult`
-- Errors: NORUN, SCHEMA, BADARG
-- Bound: the items given, at most 256
-- Flags: allow-oom
-- @include refusal

local ITEM = 6
local stored = {} -- key, bytes of the inline results to store
local persisted = {}

local function result_key(attempt) return key('result:' .. attempt) end

-- The bytes of a repeated submit stand for the accepted ones, or are left over where those were freed already.
local function keep_or_free(t, attempt)
  local from = num('bytes_from')
  local freed = t.state == 'B' and (t.step < from or (t.step == from and num('bytes_at') > 0))
  if t.state == 'X' or t.state == 'J' or freed then
    unlink(result_key(attempt))
  else
    persisted[#persisted + 1] = attempt
  end
end

-- The attempt does not hold its slot: its own answer again, or why it is late. It leaves no bytes, unless they are its accepted ones.
local function refuse(attempt, verdict, by_set)
  local t, k, s, _, same = holder(attempt)
  if same and letter(t, k) == 'D' and verdict == 'a' then
    if by_set then keep_or_free(t, attempt) end
    return 'accepted'
  end
  if by_set and not (same and letter(t, k) == 'D') then unlink(result_key(attempt)) end
  if same and s.why == 'rejected' and verdict == 'r' then return 'rejected' end
  bump('total_late', 1)
  local answer, why, by = refusal(attempt)
  event('late', attempt .. ' ' .. why .. ' ' .. by)
  return answer
end

local function accept(t, k, s, attempt, item)
  zdel(key('session:' .. s.session), attempt)
  if field('timeouts') then zdel(DEADLINES, attempt) end
  if item.version > s.newest then s.newest, s.newest_epoch = item.version, item.epoch end
  if s.newest > t.newest then t.newest = s.newest end
  slot_changed(t, k, s)
  set_letter(t, k, 'D')
  if item.by_set then
    persisted[#persisted + 1] = attempt
  else
    stored[#stored + 1] = result_key(attempt)
    stored[#stored + 1] = item.body
  end
  bump('total_results', 1)
  event('done', attempt .. ' ' .. int_text(s.newest))
  end_check(t, 'done')
  return 'accepted'
end

local function submit(attempt, item)
  local t, k, s, holds = holder(attempt)
  if not holds then return refuse(attempt, item.verdict, item.by_set) end
  local version, epoch = item.version or s.version, item.version and item.epoch or s.epoch
  if not surviving(version, epoch) then
    release_attempt(t, k, s)
    s.why = 'stale'
  elseif too_old(t.oldest) then
    stale_task(t)
  elseif item.verdict == 'r' then
    if item.by_set then unlink(result_key(attempt)) end
    reject_attempt(t, k, s, item.body ~= '' and item.body or 'rejected')
    return 'rejected'
  elseif item.by_set and redis.call('EXISTS', result_key(attempt)) == 0 then
    return 'noresult'
  else
    item.version, item.epoch = version, epoch
    return accept(t, k, s, attempt, item)
  end
  if item.by_set then unlink(result_key(attempt)) end
  return 'stale'
end

return run(function()
  load_state({ 'timeouts', 'total_results' })
  local n = (#ARGV - 1) / ITEM
  if n ~= math.floor(n) or n < 1 or n > 256 then
    fail('BADARG', 'argument', 'items', 'given', n, 'low', 1, 'high', 256)
  end
  local ids, items, answer = {}, {}, {}
  for i = 1, n do
    local at = 2 + (i - 1) * ITEM
    local verdict, version, bytes = ARGV[at + 1], ARGV[at + 2], ARGV[at + 4]
    if verdict ~= 'a' and verdict ~= 'r' then fail('BADARG', 'argument', 'verdict', 'given', verdict) end
    if bytes ~= 'i' and bytes ~= 's' then fail('BADARG', 'argument', 'bytes', 'given', bytes) end
    ids[i] = ARGV[at]
    items[i] = {
      verdict = verdict, version = version ~= '' and int_arg(at + 2, 'version', 0, MAX_INT) or nil,
      epoch = ARGV[at + 3], by_set = bytes == 's', body = ARGV[at + 5],
    }
  end
  load_attempts(ids)
  for i = 1, n do answer[i] = submit(ids[i], items[i]) end
  if #stored > 0 then
    for from = 1, #stored, 1000 do redis.call('MSET', unpack(stored, from, math.min(from + 999, #stored))) end
  end
  for i = 1, #persisted do redis.call('PERSIST', result_key(persisted[i])) end
  flush()
  return answer
end)
