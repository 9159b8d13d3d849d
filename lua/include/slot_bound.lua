-- @include record_cache
-- How many of the given tasks a call deals with. A call is bounded by slots, because a task may have 1024.

-- Reads the tasks into the cache. Returns how many of them, from the first on, have at most `most` slots together; at least one task.
local function within_slots(ids, most)
  load_tasks(ids)
  local looked = 0
  for i = 1, #ids do
    local t = tasks[ids[i]]
    looked = looked + (t and t.samples or 1)
    if i > 1 and looked > most then return i - 1 end
  end
  return #ids
end
