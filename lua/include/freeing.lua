-- @include finished
-- Forgetting tasks, a bounded number of slots a call: groups may be large.

local slots_left = 1000
local stopped = false -- whether tasks were left for the next call because of the bound

-- How many of the tasks, which must be in the cache, this call may free: those whose slots are within the rest of the bound.
local function within_bounds(ids)
  load_tasks(ids)
  for i = 1, #ids do
    if slots_left <= 0 then
      stopped = true
      return i - 1
    end
    slots_left = slots_left - (tasks[ids[i]] and tasks[ids[i]].samples or 1)
  end
  return #ids
end

local function forget(t)
  add_finished(t.id, t.state == 'B')
  drop_records(t)
end
