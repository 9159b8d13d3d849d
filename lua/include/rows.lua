-- @include result_bytes
-- The rows that describe rollouts in answers.

local MOST_SLOTS = 1000

-- Returns one list with the rows of tasks, and where in the list each row begins. A row is id, record, payload, then the record of each slot after the
-- first (empty: it was never claimed). The records are as record_layout.lua lays them out: the client reads them, since decoding costs more than all
-- else here. The record says how many slots follow, because a list for each row would cost as much again.
-- Only the first tasks that have at most MOST_SLOTS slots together get rows, at least one task: a task may have 1024 slots.
-- known: records that the script has at hand, by task. If it has not all of them, all are read.
local function rows_of(ids, known)
  local records, rows, starts, told, names, places, n, seen = {}, {}, {}, {}, {}, {}, 0, 0 -- names, places: of the slots after the first
  for i = 1, #ids do
    records[i] = known[ids[i]]
    if not records[i] then
      records = hmget(TASKS, ids)
      break
    end
  end
  for i = 1, #ids do
    local samples = Stored.samples(records[i])
    seen = seen + samples
    if i > 1 and seen > MOST_SLOTS then break end
    rows[n + 1], rows[n + 2], rows[n + 3], starts[i], told[i] = ids[i], records[i], '', n + 1, ids[i]
    n = n + 3
    for k = 1, samples - 1 do
      n = n + 1
      rows[n], names[#names + 1], places[#places + 1] = '', ids[i] .. '#' .. small_text(k), n
    end
  end
  local payloads, stored = hmget(PAYLOADS, told), hmget(SLOTS, names)
  for i = 1, #told do rows[starts[i] + 2] = payloads[i] or '' end
  for i = 1, #names do rows[places[i]] = stored[i] or '' end
  return rows, starts
end

-- Of a sealed batch: its size, its digest and when it was sealed (0: nobody noted it), as texts. Fails if nothing is stored of it.
Stored.sealed = function(step)
  local size, digest, at = (redis.call('HGET', BATCHES, int_text(step)) or ''):match('^(%d+) (%w+) ?(%d*)')
  if not size then fail('GONE', 'step', int_text(step)) end
  return size, digest, at ~= '' and at or '0'
end

-- The ids of the first members of a batch, which are given with their scores.
local function first_ids(members, most)
  local ids = {}
  for i = 1, math.min(most, #members / 2) do ids[i] = members[2 * i - 1] end
  return ids
end

-- The attempts of the done samples of rows; no more than ResultBytes.read reads, and one.
local function attempts_in(rows, starts)
  local attempts = {}
  for i = 1, #starts do
    local start = starts[i]
    local letters, claims, random = Stored.first_slot(rows[start + 1])
    for at in letters:gmatch('()D') do
      local name = rows[start] .. '#' .. small_text(at - 1)
      local later = at > 1 and Stored.attempt(name, rows[start + 1 + at])
      attempts[#attempts + 1] = later or name .. '.' .. claims .. '.' .. random
      if #attempts > ResultBytes.MOST_READ then return attempts end
    end
  end
  return attempts
end

-- Returns the rows of these tasks, and the bytes of the results of all their samples: none if they are too many, or more than `bytes` bytes.
local function contents(ids, bytes, known)
  local rows, starts = rows_of(ids, known)
  local few = #starts <= ResultBytes.MOST_READ -- a rollout has a result at least
  return { rows, few and ResultBytes.read(attempts_in(rows, starts), bytes) or {} }
end
