-- @include result_bytes
-- The rows that describe rollouts in answers.

local MOST_SLOTS = 1000

-- Returns a row per task: id, its record, payload, then the record of each slot after the first (empty: it was never claimed). The records are as
-- record_layout.lua lays them out: the client reads them, since decoding costs more than all else here.
-- Only the first tasks that have at most MOST_SLOTS slots together get rows, at least one task: a task may have 1024 slots.
-- known: records that the script has at hand, by task. If it has not all of them, all are read.
local function rows_of(ids, known)
  local records, rows, later, names, seen = {}, {}, {}, {}, 0 -- later: how many slots after the first a row has
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
    rows[i], later[i] = { ids[i], records[i], '' }, samples - 1
    for k = 1, later[i] do names[#names + 1] = ids[i] .. '#' .. small_text(k) end
  end
  local payloads, stored, at = hmget(PAYLOADS, { unpack(ids, 1, #rows) }), hmget(SLOTS, names), 0
  for i = 1, #rows do
    local row = rows[i]
    row[3] = payloads[i] or ''
    for k = 1, later[i] do row[3 + k] = stored[at + k] or '' end
    at = at + later[i]
  end
  return rows
end

-- The ids of the first members of a batch, which are given with their scores.
local function first_ids(members, most)
  local ids = {}
  for i = 1, math.min(most, #members / 2) do ids[i] = members[2 * i - 1] end
  return ids
end

-- The attempts of the done samples of rows; no more than ResultBytes.read reads, and one.
local function attempts_in(rows)
  local attempts = {}
  for i = 1, #rows do
    local row = rows[i]
    local letters, claims, random = Stored.first_slot(row[2])
    for at in letters:gmatch('()D') do
      local name = row[1] .. '#' .. small_text(at - 1)
      attempts[#attempts + 1] = at > 1 and Stored.attempt(name, row[2 + at]) or name .. '.' .. claims .. '.' .. random
      if #attempts > ResultBytes.MOST_READ then return attempts end
    end
  end
  return attempts
end

-- Returns the rows of these tasks, and the bytes of the results of all their samples: none if they are too many, or more than `bytes` bytes.
local function contents(ids, bytes, known)
  local rows = rows_of(ids, known)
  return { rows, ResultBytes.read(attempts_in(rows), bytes) }
end
