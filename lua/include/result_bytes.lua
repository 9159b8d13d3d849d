-- @include record_cache
-- The bytes of results, a string each under `result:<attempt>`. No other file makes their keys, reads them or writes them.
-- A submit says how the bytes of a result come: `i`: in the call; `s`: the client stored them with SET before the call, with a time to live
-- (`broker/protocol/result_bytes.py`). Bytes are freed when a result is dropped (tasks.lua), and two steps after their batch (trim.lua).

local ResultBytes = {}
ResultBytes.inline, ResultBytes.kept = false, false -- what write() stores: keys and bytes; and what it keeps: keys

ResultBytes.check = function(how)
  if how ~= 'i' and how ~= 's' then fail('BADARG', 'argument', 'bytes', 'given', how) end
end

-- Whether the bytes of a result are not there, though the client should have stored them.
ResultBytes.missing = function(attempt, how) return how == 's' and redis.call('EXISTS', RESULT .. attempt) == 0 end

-- The bytes stay: their time to live ends.
ResultBytes.keep = function(attempt)
  ResultBytes.kept = ResultBytes.kept or {}
  table.insert(ResultBytes.kept, RESULT .. attempt)
end

-- The bytes of an accepted result: write() stores those of the call.
ResultBytes.store = function(attempt, how, body)
  if how == 's' then return ResultBytes.keep(attempt) end
  ResultBytes.inline = ResultBytes.inline or {}
  local inline, n = ResultBytes.inline, #ResultBytes.inline
  inline[n + 1], inline[n + 2] = RESULT .. attempt, body
end

-- Writes what store() and keep() noted. A script calls it where it can no longer fail.
ResultBytes.write = function()
  local inline, kept = ResultBytes.inline, ResultBytes.kept
  if inline then
    for from = 1, #inline, 1000 do redis.call('MSET', unpack(inline, from, math.min(from + 999, #inline))) end
  end
  if kept then
    for i = 1, #kept do redis.call('PERSIST', kept[i]) end
  end
end

-- The bytes are deleted when flush() writes.
ResultBytes.free = function(attempt) unlink(RESULT .. attempt) end

-- The bytes of a result that is not accepted, and which are nobody else's.
ResultBytes.drop = function(attempt, how)
  if how == 's' then ResultBytes.free(attempt) end
end

-- Whether trim has freed the bytes of t, a task of a batch. It goes from the oldest step on; `bytes_at` counts tasks.
ResultBytes.freed = function(t)
  local step, from = tonumber(t.step), num('bytes_from')
  return step < from or (step == from and num('bytes_at') > 0)
end

-- The bytes of a repeated submit are those of the accepted result: they stay, unless that result was freed already.
ResultBytes.store_again = function(t, attempt, how)
  if how ~= 's' then return end
  if t.state == 'X' or t.state == 'J' or (t.state == 'B' and ResultBytes.freed(t)) then
    ResultBytes.free(attempt)
  else
    ResultBytes.keep(attempt)
  end
end

-- The keys of the results of t's done slots. All slots of t must have been read.
ResultBytes.keys_of = function(t)
  local keys = {}
  for k = 0, t.samples - 1 do
    if letter(t, k) == 'D' then keys[#keys + 1] = RESULT .. attempt_id(t, k, slot_of(t, k)) end
  end
  return keys
end

-- Whether the bytes of all of t's results are there.
ResultBytes.are_there = function(t)
  local keys = ResultBytes.keys_of(t)
  return #keys == 0 or redis.call('EXISTS', unpack(keys)) == #keys
end

-- The bytes of all results of tasks are deleted when flush() writes. records: the stored records of the tasks. Stops after the task that has
-- the last of `most` slots. Returns of how many tasks the bytes are deleted, and how many slots these have.
ResultBytes.free_all = function(ids, records, most)
  local n, slots_seen, names = 0, 0, {} -- names: of slots after the first
  while n < #ids and slots_seen < most do
    n = n + 1
    local id, letters, claims, random = ids[n], Stored.first_slot(records[n])
    slots_seen = slots_seen + #letters
    if letters:find('^D') then unlink(RESULT .. id .. '#0.' .. claims .. '.' .. random) end
    for k = 1, #letters - 1 do
      if letters:sub(k + 1, k + 1) == 'D' then names[#names + 1] = id .. '#' .. small_text(k) end
    end
  end
  local stored = hmget(SLOTS, names)
  for i = 1, #names do ResultBytes.free(Stored.attempt(names[i], stored[i])) end
  return n, slots_seen
end

-- How many results a script reads. More of them the client reads by a command of its own: their lengths need not be looked at there.
ResultBytes.MOST_READ = 16

-- The bytes of the results of these attempts; nothing if they are more than MOST_READ, or have more than `most` bytes.
ResultBytes.read = function(attempts, most)
  local keys, sum = {}, 0
  if #attempts == 0 or #attempts > ResultBytes.MOST_READ then return {} end
  for i = 1, #attempts do
    keys[i] = RESULT .. attempts[i]
    sum = sum + redis.call('STRLEN', keys[i])
    if sum > most then return {} end
  end
  return redis.call('MGET', unpack(keys))
end
