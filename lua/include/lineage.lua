-- @include state
-- Which epoch gave which order numbers. A failover may lose numbers, and the trainer that goes on gives them again, to other tasks. So a
-- number means the same task in a checkpoint and on the server only up to the last number that one epoch gave in both histories.
-- The field `lineage` is `token:number ...`, newest epoch first: the epoch's token, and the newest number when that epoch began.

local MOST_MARKS = 100

-- Notes that the epoch of this token gives the numbers above `from`; `older` is the lineage of the numbers before. An epoch that gave no number loses its mark.
local function mark_epoch(token, from, older)
  local marks = { token .. ':' .. int_text(from) }
  for mark, at in older:gmatch('(%w+:(%d+))') do
    if tonumber(at) < from and #marks < MOST_MARKS then marks[#marks + 1] = mark end
  end
  set('lineage', table.concat(marks, ' '))
end

-- Returns the last number that means the same task in a checkpoint and on the server. listed_order: the checkpoint's newest number (-1: it has no list).
local function common_order(listed_order, lineage)
  local last_here, last = {}, num('order_seq') -- token -> the last number that it gave
  if lineage == '' or listed_order < 0 then return math.min(listed_order, last) end
  for token, at in (field('lineage') or ''):gmatch('(%w+):(%d+)') do
    last_here[token], last = last, tonumber(at)
  end
  last = listed_order
  for token, at in lineage:gmatch('(%w+):(%d+)') do
    if last_here[token] then return math.min(last, last_here[token]) end
    last = tonumber(at)
  end
  return 0
end

-- The facts by which a recovery decides. listed_order is -1 for a recovery to a version alone, without a checkpoint's list.
--   common       tasks with numbers up to this one are the same in the checkpoint and on the server: the list decides about them
--   lost         the server has lost numbers of the checkpoint's history: a task above `common` may be in that history too, or not
--   by_cursor    `lost`, and the checkpoint has a cursor: a task above `common` that the list does not name is dropped. The data loader
--                goes back to the checkpoint's cursor and enqueues again the tasks after it
--   forgot       the server lacks numbers or steps of the checkpoint's history
--   older        the checkpoint is older than the one that the server is known from (known_from, see recover_begin.lua)
--   file_cursor  the run takes the checkpoint's cursor instead of the server's
local function plan_of(version, limit, listed_order, lineage, has_cursor)
  local to = { version = version, limit = limit, common = common_order(listed_order, lineage) }
  to.lost = to.common < listed_order
  to.by_cursor = to.lost and has_cursor
  to.forgot = listed_order >= 0 and (to.lost or limit < version)
  to.older = listed_order >= 0 and listed_order < num('known_from')
  to.file_cursor = has_cursor and (to.forgot or to.older)
  return to
end
