-- @include writes
-- Tasks that a recovery named to be enqueued again, because the server does not know them. They count as left until they are there, or are
-- cancelled.
-- awaited  <task> -> 1
-- `awaited` in the state is their number.

local Awaited = {}

-- A piece of the recovery names these tasks.
Awaited.add = function(ids)
  local there = hmget(key('awaited'), ids)
  for i = 1, #ids do
    if not there[i] then
      hput(key('awaited'), ids[i], 1)
      bump('awaited', 1)
    end
  end
end

-- Nobody waits for these tasks any more. Returns which of them were waited for.
Awaited.drop = function(ids)
  local dropped = {}
  if num('awaited') == 0 or #ids == 0 then return dropped end
  local there = hmget(key('awaited'), ids)
  for i = 1, #ids do
    if there[i] and not dropped[ids[i]] then
      dropped[ids[i]] = true
      hdel(key('awaited'), ids[i])
      bump('awaited', -1)
    end
  end
  return dropped
end

-- A recovery by another list begins, and names its own.
Awaited.forget = function()
  if num('awaited') == 0 then return end
  unlink(key('awaited'))
  set('awaited', 0)
end
