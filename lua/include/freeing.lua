-- @include freed_ids
-- Frees the record of a dead or rejected task. An event names the task: nobody trained on it, and only the trainer can enqueue it again.

-- reason: why it is dead or rejected.
local function free_untrained(t, reason)
  local word, name = 'rejected', REJECTED
  if t.state == 'X' then word, name = 'dead', DEAD end
  event('freed', t.id .. ' ' .. word .. ' ' .. escape(reason))
  bump('total_freed_' .. word, 1)
  add_finished(t.id, false)
  drop_records(t.id, t.samples)
  zdel(name, t.id)
  hdel(REASONS, t.id)
end
