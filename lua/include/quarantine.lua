-- @include writes
-- Quarantine: a session whose attempts all fail while others are accepted gets none for a while (protocol, "Quarantine").
-- ailing      <session> -> `results times until task ...` of a session that failed since its last result or verdict: how many results were
--             accepted before, how often it was quarantined, until when, the different tasks that failed
-- quarantine  <session> -> until when, of those that were quarantined
-- `ailing` in the state is the number of sessions in the hash.

local Quarantine = {}
Quarantine.LEAST_MS, Quarantine.MOST_TIMES = 1000, 16
Quarantine.cached = {} -- session -> its entry, or false
Quarantine.began = false -- whether a session was quarantined in this call

Quarantine.of = function(session)
  if num('ailing') == 0 then return nil end
  if Quarantine.cached[session] == nil then
    local text, entry = redis.call('HGET', key('ailing'), session), false
    if text then
      local results, times, till, names = text:match('^(%d+) (%d+) (%d+)(.*)$')
      entry = { results = tonumber(results), times = tonumber(times), till = tonumber(till), names = {} }
      for name in names:gmatch('%S+') do entry.names[#entry.names + 1] = name end
    end
    Quarantine.cached[session] = entry
  end
  return Quarantine.cached[session] or nil
end

-- A result or a verdict of the session, its end, or an operator: its failures count no more.
Quarantine.forget = function(session)
  local entry = Quarantine.of(session)
  if not entry then return end
  hdel(key('ailing'), session)
  if entry.times > 0 then zdel(key('quarantine'), session) end
  bump('ailing', -1)
  Quarantine.cached[session] = false
end

-- The session is quarantined, for longer each time.
Quarantine.begin = function(session, entry)
  local first = math.max(Quarantine.LEAST_MS, num('retry_backoff_max_ms'))
  entry.till = now + math.min(first * 2 ^ entry.times, first * Quarantine.MOST_TIMES)
  entry.times = entry.times + 1
  zput(key('quarantine'), session, entry.till)
  Quarantine.began = true
  bump('total_quarantines', 1)
  event('quarantine', session .. ' ' .. int_text(entry.till))
end

-- An attempt of a session whose lease runs has failed.
Quarantine.failed = function(session, name)
  local after = num('quarantine_after')
  if after == 0 or state.halted then return end
  local entry = Quarantine.of(session)
  if not entry then
    entry = { results = num('total_results'), times = 0, till = 0, names = {} }
    bump('ailing', 1)
    Quarantine.cached[session] = entry
  end
  if now < entry.till then return end
  if #entry.names < after and not contains(entry.names, name) then entry.names[#entry.names + 1] = name end
  if entry.times > 0 or (#entry.names >= after and num('total_results') > entry.results) then
    Quarantine.begin(session, entry)
  end
  local head = { int_text(entry.results), int_text(entry.times), int_text(entry.till) }
  hput(key('ailing'), session, table.concat(head, ' ') .. ' ' .. table.concat(entry.names, ' '))
end

-- How many of n slots a claim may hand out: none in quarantine; after it one at a time, until a result of the session is accepted.
Quarantine.most = function(session, n)
  local entry = Quarantine.of(session)
  if not entry or entry.times == 0 then return n end
  if now < entry.till then return 0 end
  return math.min(n, math.max(0, 1 - redis.call('ZCARD', SESSION .. session)))
end

-- The first sessions of those that are quarantined.
Quarantine.names = function(most)
  return redis.call('ZRANGEBYSCORE', key('quarantine'), '(' .. int_text(now), '+inf', 'LIMIT', 0, most)
end

-- How many sessions are quarantined.
Quarantine.count = function()
  return redis.call('ZCOUNT', key('quarantine'), '(' .. int_text(now), '+inf')
end

-- The first of them: `session ms ...`, for how much longer each.
Quarantine.told = function(most)
  local after = '(' .. int_text(now)
  local got = redis.call('ZRANGEBYSCORE', key('quarantine'), after, '+inf', 'WITHSCORES', 'LIMIT', 0, most)
  for i = 2, #got, 2 do got[i] = int_text(got[i] - now) end
  return table.concat(got, ' ')
end

-- Whether every session is, and one of them since this call. What the call did must be written.
Quarantine.is_over_all = function()
  return Quarantine.began and Quarantine.count() >= redis.call('ZCARD', SESSIONS)
end

Quarantine.end_all = function()
  local names = redis.call('HKEYS', key('ailing'))
  for i = 1, #names do Quarantine.forget(names[i]) end
end
