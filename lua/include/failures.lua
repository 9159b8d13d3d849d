-- @include writes
-- What is remembered of failed attempts while it matters: the last error of each task, and faults of workers.
-- errors  <task> -> of its last failed attempt: `attempt kind at bytes` (of the message), a line break, message, traceback
-- faults  <task> -> for each slot that has some: `slot faults until session ...`, with `;` between them
-- A fault is the worker's (protocol, "An attempt ends without a result"): until then its session does not get the slot again.

local Failures = {}
Failures.MOST_FAULTY, Failures.LEAST_BAR_MS = 3, 1000
Failures.cached = {} -- task -> slot number -> its faults

Failures.read = function(text)
  local all = {}
  for number, count, till, sessions in text:gmatch('(%d+) (%d+) (%d+) ([^;]+)') do
    local f = { count = tonumber(count), till = tonumber(till), sessions = {} }
    for session in sessions:gmatch('%S+') do f.sessions[#f.sessions + 1] = session end
    all[tonumber(number)] = f
  end
  return all
end

Failures.load = function(ids)
  local texts = hmget(key('faults'), ids)
  for i = 1, #ids do
    local id = ids[i]
    Failures.cached[id] = Failures.cached[id] or Failures.read(texts[i] or '')
  end
end

Failures.of = function(t)
  if not Failures.cached[t.id] then Failures.load({ t.id }) end
  return Failures.cached[t.id]
end

-- Whether the session has just failed at slot k.
Failures.bars = function(t, k, session)
  local f = Failures.of(t)[k]
  return f and now < f.till and contains(f.sessions, session)
end

-- Whether the session has just failed at all open slots of the task.
Failures.bars_all = function(t, session)
  if not state.faulted then return false end
  for at in t.letters:gmatch('()O') do
    if not Failures.bars(t, at - 1, session) then return false end
  end
  return true
end

-- A fault of the worker that had slot k. Returns whether it makes one failure of the task: faults of so many sessions do.
-- pause_until: when the slot would be tried again after its n-th error.
Failures.add = function(t, k, session, pause_until)
  local all = Failures.of(t)
  local f = all[k] or { count = 0, sessions = {} }
  f.count = f.count + 1
  if not contains(f.sessions, session) then f.sessions[#f.sessions + 1] = session end
  f.till = math.max(now + Failures.LEAST_BAR_MS, pause_until(f.count) or 0)
  all[k] = #f.sessions < Failures.MOST_FAULTY and f or nil
  local texts = {}
  for number, g in pairs(all) do
    texts[#texts + 1] = table.concat({ number, g.count, int_text(g.till), table.concat(g.sessions, ' ') }, ' ')
  end
  set('faulted', 1)
  if #texts > 0 then hput(key('faults'), t.id, table.concat(texts, ';')) else hdel(key('faults'), t.id) end
  return all[k] == nil
end

-- Notes why an attempt failed.
Failures.note = function(t, attempt, kind, message, trace)
  set('failing', 1)
  local head = attempt .. ' ' .. kind .. ' ' .. int_text(now) .. ' ' .. #message
  hput(key('errors'), t.id, head .. '\n' .. message .. trace)
end

-- The faults are of no matter any more; with errors, the last error neither.
Failures.forget = function(id, with_errors)
  if state.faulted then
    hdel(key('faults'), id)
    Failures.cached[id] = {}
  end
  if with_errors and state.failing then hdel(key('errors'), id) end
end
