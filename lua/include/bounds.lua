-- @include records
-- How much of what it is given a call deals with: groups may be large.

-- How many of the tasks, which are read: as many as have so many slots together, one at least.
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
