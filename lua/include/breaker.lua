-- @include verdicts
-- @include backoff
-- @include quarantine
-- The breaker: a streak of failures without an accepted result between them halts the run (protocol, "The breaker").
-- streak  <task> -> `session at slot:tries,slot:tries ...` of its failures in the streak, a line break, the last error
-- halt    the streak that halted the run, as `streak`; until the halt ends
-- The streak counts while `total_results` is `streak_results`: no result was accepted since. `streak` is its number of events.

local Breaker = {}
Breaker.MOST_OF_ERROR, Breaker.MANY_TRIES, Breaker.MOST_NAMED = 200, 41, 100
Breaker.entries = false -- of the streak, by task, once they are read
Breaker.failed = false -- whether anything has failed in this call
Breaker.notes = false -- whether what the present failure takes is noted, of a task that is not in the streak

Breaker.is_on = function() return not state.halted and num('halt_after_failures') > 0 end

Breaker.read = function(name)
  local entries, got = {}, redis.call('HGETALL', key(name))
  for i = 1, #got, 2 do
    local session, at, words, message = got[i + 1]:match('^(%S+) (%d+) (%S+)\n(.*)$')
    local taken = {}
    for k, tries in words:gmatch('(%d+):(%d+)') do taken[tonumber(k)] = tonumber(tries) end
    entries[got[i]] = { session = session, at = tonumber(at), taken = taken, message = message }
  end
  return entries
end

Breaker.text = function(entry)
  local words = {}
  for k, tries in pairs(entry.taken) do words[#words + 1] = small_text(k) .. ':' .. small_text(tries) end
  return entry.session .. ' ' .. int_text(entry.at) .. ' ' .. table.concat(words, ',') .. '\n' .. entry.message
end

-- The entries of the streak, if it still counts.
Breaker.streak = function()
  if not Breaker.entries then
    local counts = num('streak') > 0 and num('streak_results') == num('total_results')
    Breaker.entries = counts and Breaker.read('streak') or {}
  end
  return Breaker.entries
end

Breaker.empty = function()
  for _, id in ipairs(redis.call('HKEYS', key('streak'))) do hdel(key('streak'), id) end
  set('streak', 0)
  set('streak_session', '')
  Breaker.entries = {}
end

-- A failure of these tasks begins. It is an event of the streak where none of them is in it yet.
-- session: the one that expired, perhaps in pieces; empty: an attempt failed.
Breaker.begin = function(ids, session)
  Breaker.notes = false
  if not Breaker.is_on() then return end
  local entries = Breaker.streak()
  if num('streak') > 0 and num('streak_results') ~= num('total_results') then
    Breaker.empty()
    entries = Breaker.entries
  end
  if session ~= '' and field('streak_session') == session then
    Breaker.notes = true
    return
  end
  for i = 1, #ids do
    if entries[ids[i]] then return end
  end
  bump('streak', 1)
  set('streak_session', session)
  set('streak_results', num('total_results'))
  Breaker.notes = true
end

-- The failure takes so many tries of slot k.
Breaker.take = function(t, k, s, tries, message)
  if not Breaker.is_on() then return end
  Breaker.failed = true
  local entry = Breaker.streak()[t.id]
  if not (entry or Breaker.notes) then return end
  entry = entry or { taken = {} }
  entry.session, entry.at, entry.message = s.session, now, message:sub(1, Breaker.MOST_OF_ERROR)
  entry.taken[k] = (entry.taken[k] or 0) + tries
  Breaker.entries[t.id] = entry
  hput(key('streak'), t.id, Breaker.text(entry))
end

-- What died of the streak is waiting again, in its old place.
Breaker.revive = function(t)
  if t.samples - select(2, t.letters:gsub('F', '')) < TaskOptions.of(t).min_samples then return end
  for k = 0, t.samples - 1 do
    if letter(t, k) == 'D' then
      slot_of(t, k).why = 'revoked'
      slot_changed(t, k, slot_of(t, k))
    end
  end
  leave_state(t)
  local stales, requeues = again_parts(t)
  set_again(t, stales, requeues + 1)
  wait_again(t)
  bump('total_revived', 1)
  event('retry', t.id)
end

Breaker.give_back = function(t, taken)
  load_slots_of(t)
  for k, tries in pairs(taken) do
    local s = k < t.samples and slot_of(t, k)
    if s then
      s.tries = small_text(math.max(0, s.tries - tries))
      slot_changed(t, k, s)
      if letter(t, k) == 'F' and not Verdicts.rejected(s) then
        t.errors = small_text(t.errors - 1)
        set_letter(t, k, 'O')
      end
    end
  end
  changed(t)
  if t.state == 'X' then
    Breaker.revive(t)
  elseif t.state == 'R' and t.letters:find('O', 1, true) then
    zput(OPEN, t.id, place(t))
  end
end

-- Whether a task is left that could still succeed, or more will come.
Breaker.may_go_on = function()
  if field('supply') == 'more' or num('awaited') > 0 then return true end
  for _, name in ipairs({ PENDING, DELAYED, RUNNING }) do
    if redis.call('ZCARD', name) > 0 then return true end
  end
  return false
end

-- How many of these tasks are dead.
Breaker.died = function(ids)
  load_tasks(ids)
  local died = 0
  for i = 1, #ids do
    local t = tasks[ids[i]]
    if t and t.state == 'X' then died = died + 1 end
  end
  return died
end

-- quarantined: whether it is because all sessions are quarantined; their names are kept.
Breaker.halt = function(ids, quarantined)
  set('halted', num('streak'))
  set('halted_by', quarantined and table.concat(Quarantine.names(Breaker.MOST_NAMED), ' ') or '')
  set('halted_at', now)
  bump('total_halts', 1)
  event('halt', int_text(num('streak')))
  load_tasks(ids)
  for i = 1, #ids do
    local id = ids[i]
    local t, entry = tasks[id], Breaker.entries[id]
    hput(key('halt'), id, Breaker.text(entry))
    if t and t.state:find('[PDRX]') then Breaker.give_back(t, entry.taken) end
  end
  Breaker.empty()
  Markers.arm_trainer(true)
end

-- Halts the run where enough has failed, where nothing is left to try, or where all sessions are quarantined. What failed in this call must be written.
-- at_take: the trainer asks for a batch; else only a failure in this call can halt the run.
Breaker.look = function(at_take)
  if not ((Breaker.failed or at_take) and Breaker.is_on()) then return end
  local n, ids = num('streak'), {}
  if n < 1 or num('streak_results') ~= num('total_results') then return end
  local is_long = n >= 2 and n >= num('halt_after_failures')
  local is_enough = is_long or Quarantine.is_over_all()
  if not is_enough and (n < 2 or Breaker.may_go_on()) then return end
  for id in pairs(Breaker.streak()) do ids[#ids + 1] = id end
  if not is_enough and Breaker.died(ids) < 2 then return end
  Breaker.halt(ids, is_enough and not is_long)
  flush()
end

-- The task waits until then, or what is open of it does.
Breaker.postpone = function(t, taken, due)
  due_at(due)
  if t.state == 'P' or t.state == 'D' then
    zdel(PENDING, t.id)
    t.state = 'D'
    changed(t)
    zput(DELAYED, t.id, due)
  elseif t.state == 'R' then
    for k in pairs(taken) do
      if k < t.samples and letter(t, k):find('[OW]') then
        set_letter(t, k, 'W')
        zput(RETRIES, slot_name(t, k), due)
      end
    end
    if not t.letters:find('O', 1, true) then zdel(OPEN, t.id) end
  end
end

-- Ends a halt: what failed is due after the longest pause of a retry, so that other tasks go first.
Breaker.resume = function()
  local entries, ids, due = Breaker.read('halt'), {}, retry_at(Breaker.MANY_TRIES)
  for id in pairs(entries) do
    ids[#ids + 1] = id
    hdel(key('halt'), id)
  end
  load_tasks(ids)
  for i = 1, #ids do
    local t = tasks[ids[i]]
    if t and due then Breaker.postpone(t, entries[t.id].taken, due) end
  end
  set('halted', '')
  state.halted = false
  Quarantine.end_all()
end
