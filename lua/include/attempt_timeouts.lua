-- @include task_options
-- @include writes
-- The time-out of an attempt, and its deadline: the set DEADLINES, on the lease clock. The sweep takes back what is due in it.

local Timeouts = {}

-- In milliseconds, 0: none. of_run: the run's attempt_timeout_ms, which a task's own time-out goes before.
Timeouts.of = function(t, of_run) return TaskOptions.own(t, 'timeout_ms') or of_run end

-- An attempt at the task begins now.
Timeouts.begin = function(attempt, t, of_run)
  local ms = Timeouts.of(t, of_run)
  if ms <= 0 then return end
  if not field('timeouts') then set('timeouts', 1) end -- attempts may have a deadline from now on, even if the config changes
  zput(DEADLINES, attempt, lease_end(ms))
  due_at(now + ms)
end

-- The attempt has ended.
Timeouts.clear = function(attempt)
  if field('timeouts') then zdel(DEADLINES, attempt) end
end
