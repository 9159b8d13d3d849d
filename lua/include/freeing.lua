-- @include freed_ids
-- Forgets finished tasks. A call forgets a bounded number of slots, because a task may have 1024.

local slots_left = 1000
local stopped = false -- whether tasks were left for the next call because of the bound

-- Reads the tasks into the cache. Returns how many of them, from the first on, this call may free: those that begin within the rest of its slots.
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
