-- @include slot_bound
-- @include result_bytes
-- The rows that describe rollouts in answers.

-- Appends to `row`, per done sample: slot, attempt, version, newest, session. Appends the attempts to `attempts`.
local function add_samples(t, row, attempts)
  local n = #row
  for k = 0, t.samples - 1 do
    local s = slot_of(t, k)
    if letter(t, k) == 'D' and s then
      local attempt = attempt_id(t, k, s)
      row[n + 1], row[n + 2], row[n + 3], row[n + 4], row[n + 5] = k, attempt, s.version, s.newest, s.session
      n = n + 5
      attempts[#attempts + 1] = attempt
    end
  end
  return row
end

local MOST_SLOTS = 1000

-- Returns a row per task (id, priority, oldest, newest, first, payload, then its samples), and the attempts of all their samples.
-- Only the first tasks that have at most MOST_SLOTS slots together get rows, at least one task: a task may have 1024 slots.
local function rows_of(ids)
  local names, rows, attempts = {}, {}, {}
  ids = { unpack(ids, 1, within_slots(ids, MOST_SLOTS)) }
  for i = 1, #ids do
    local t = tasks[ids[i]]
    for k = 1, t.samples - 1 do names[#names + 1] = slot_name(t, k) end
  end
  local payloads = hmget(PAYLOADS, ids)
  load_slots(names)
  for i = 1, #ids do
    local t = tasks[ids[i]]
    local priority = TaskOptions.of(t).priority
    rows[i] = add_samples(t, { t.id, priority, t.oldest, t.newest, t.first, payloads[i] or '' }, attempts)
  end
  return rows, attempts
end

-- The ids of the first members of a batch, which are given with their scores.
local function first_ids(members, most)
  local ids = {}
  for i = 1, math.min(most, #members / 2) do ids[i] = members[2 * i - 1] end
  return ids
end

-- Returns the rows of these tasks, and the bytes of the results of all their samples: none if they are too many, or more than `bytes` bytes.
local function contents(ids, bytes)
  local rows, attempts = rows_of(ids)
  return { rows, ResultBytes.read(attempts, bytes) }
end
