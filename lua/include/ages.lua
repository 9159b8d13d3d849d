-- @include record_cache
-- @include waiting
-- Counts the tasks of the mode `wait` anew.

local MOST_COUNTED_AT_ONCE = 1000

-- Calls see(task) for each task of the set `name`, in pieces.
Staleness.each = function(name, see)
  local from = 0
  repeat
    local ids = redis.call('ZRANGE', name, from, from + MOST_COUNTED_AT_ONCE - 1)
    load_tasks(ids)
    for i = 1, #ids do
      if tasks[ids[i]] then see(tasks[ids[i]]) end
    end
    from = from + #ids
  until #ids < MOST_COUNTED_AT_ONCE
end

-- Counts the tasks that are running or ready, and puts those that are ready into the order of the mode.
Staleness.recount = function()
  local ages = {}
  local function add(t) ages[t.oldest] = (ages[t.oldest] or 0) + 1 end
  if Staleness.counts() then Staleness.each(RUNNING, add) end
  Staleness.each(READY, function(t)
    add(t)
    zput(READY, t.id, Staleness.score(t))
  end)
  Staleness.ages, Staleness.sorted = Staleness.counts() and ages or {}, nil
  Staleness.write()
  set('wait', '')
end

-- How many tasks are counted.
Staleness.total = function()
  local total = 0
  for _, n in pairs(Staleness.read()) do total = total + n end
  return total
end
