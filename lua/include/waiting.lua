-- @include wake_markers
-- The mode `wait`: nothing that was started becomes too old (protocol, "Waiting for what is due").
--
-- The field `ages` of the state counts the tasks that are running or ready by the oldest version of their samples: `version:count ...`. It is
-- kept only in this mode; when the mode is set, the tasks are counted (include/ages.lua). The field `wait` says for whom the next batch
-- waits: `step since version first task ...`, by take.lua.

Staleness.ages = nil -- the counts of `ages` by version, as text; nil: not read in this call
Staleness.sorted = nil -- its versions, the oldest first; nil: not sorted since a version came or went
Staleness.unwritten = false -- whether flush() has to write `ages`

-- Whether the tasks are counted.
Staleness.counts = function() return state.on_stale == 'wait' end

-- Whether batches wait.
Staleness.waits = function() return state.on_stale == 'wait' and Staleness.limit() ~= nil end

Staleness.read = function()
  if not Staleness.ages then
    Staleness.ages = {}
    for version, n in (field('ages') or ''):gmatch('(%d+):(%d+)') do Staleness.ages[version] = tonumber(n) end
  end
  return Staleness.ages
end

-- The versions that are counted, the oldest first.
Staleness.versions = function()
  if Staleness.sorted then return Staleness.sorted end
  local versions = {}
  for version in pairs(Staleness.read()) do versions[#versions + 1] = tonumber(version) end
  table.sort(versions)
  Staleness.sorted = versions
  return versions
end

-- Notes `ages` for the writes of the state. A call changes it for each of its tasks, so flush() calls this once.
Staleness.write = function()
  local words, versions = {}, Staleness.versions()
  for i = 1, #versions do
    local version = int_text(versions[i])
    words[i] = version .. ':' .. int_text(Staleness.ages[version])
  end
  set('ages', table.concat(words, ' '))
  Staleness.unwritten = false
end

-- The oldest version of a task that is running or ready changes; '-1': it is not one before, or after.
Staleness.moved = function(from, to)
  if not Staleness.counts() then return end
  local ages = Staleness.read()
  if from ~= '-1' then
    ages[from] = (ages[from] or 0) > 1 and ages[from] - 1 or nil
    if not ages[from] then Staleness.sorted = nil end
  end
  if to ~= '-1' then
    if not ages[to] then Staleness.sorted = nil end
    ages[to] = (ages[to] or 0) + 1
  end
  Staleness.unwritten = true
end

-- A task stops running, or being ready, and enters no batch: the batch may take another one in its place.
Staleness.left = function(t)
  if not Staleness.counts() then return end
  Staleness.moved(t.oldest, '-1')
  Markers.arm_trainer(true)
end

-- The task's score in `ready`: the order in which batches take it.
Staleness.score = function(t)
  if not Staleness.counts() then return t.first end
  return tonumber(t.oldest) * 4294967296 + tonumber(t.first)
end

-- Calls see(version, places) for each counted version from `from` on, and for `from`, until it returns a value, and returns that. places: those of
-- the steps that may train the version, less `size` and less the tasks that are as old or older. Tasks that are too old already do not count, nor
-- those of undone versions, which a recovery has not met yet.
Staleness.walk = function(from, size, see)
  local limit, step, b, seen, versions = Staleness.limit(), num('step_next'), batch_size(), 0, Staleness.versions()
  local function places(version) return (version + limit - step + 1) * b - size - seen end
  local is_seen = false
  for i = 1, #versions do
    local version = versions[i]
    if version > from and not is_seen then
      is_seen = true
      local found = see(from, places(from))
      if found then return found end
    end
    if version >= step - limit and version <= num('version') then seen = seen + Staleness.ages[int_text(version)] end
    if version >= from then
      is_seen = true
      local found = see(version, places(version))
      if found then return found end
    end
  end
  return not is_seen and see(from, places(from)) or nil
end

-- How many more tasks a worker whose weights have this version may start. size: of the unsealed batch.
Staleness.room = function(version, size)
  local least = math.huge
  Staleness.walk(version, math.min(size, batch_size()), function(_, places) least = math.min(least, places) end)
  return least
end

-- The newest version that the unsealed batch may take now; nil: any. least: how many places must be left beside those of the tasks up to a version.
Staleness.bound = function(size, least)
  if not Staleness.waits() or size >= batch_size() then return nil end
  return Staleness.walk(num('step_next') - Staleness.limit(), size, function(version, places)
    return places < least and version
  end)
end

-- The version up to which tasks keep the unsealed batch from being sealed; nil: it may be sealed.
Staleness.unsealable = function(size) return Staleness.bound(size, batch_size() - size) end
