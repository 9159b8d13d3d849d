-- @include state
-- Which epochs gave the order numbers. A failover forgets numbers, and the trainer that goes on gives them again to other tasks. So a
-- number means the same task in a checkpoint and on the server only up to the last number that an epoch gave in both histories.
-- The field `lineage` is `token:number ...`, newest first: an epoch's token, and the newest number when it began.

local MOST_MARKS = 100

-- The numbers above `from` are of this token's epoch; `older` describes those before. An epoch that gave no number leaves no mark.
local function mark_epoch(token, from, older)
  local marks = { token .. ':' .. int_text(from) }
  for mark, at in older:gmatch('(%w+:(%d+))') do
    if tonumber(at) < from and #marks < MOST_MARKS then marks[#marks + 1] = mark end
  end
  set('lineage', table.concat(marks, ' '))
end

-- The last number that means the same task in a checkpoint and on the server. The checkpoint knows numbers up to listed_order (-1: it has no list).
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

-- The facts that a recovery decides by (listed_order -1: a version alone, without a list):
--   common     up to this number the list decides
--   lost       the server came back without some of the checkpoint's numbers: tasks with later ones are that history's too, or are not
--   by_cursor  the list decides of these as well: the data loader goes back to the checkpoint's cursor, and brings again what is behind it
--   forgot     steps or numbers are missing
--   older      they were when the server came back by a newer checkpoint
--   file_cursor  the checkpoint's cursor counts, not the server's
local function plan_of(version, limit, listed_order, lineage, has_cursor)
  local to = { version = version, limit = limit, common = common_order(listed_order, lineage) }
  to.lost = to.common < listed_order
  to.by_cursor = to.lost and has_cursor
  to.forgot = listed_order >= 0 and (to.lost or limit < version)
  to.older = listed_order >= 0 and listed_order < num('known_from')
  to.file_cursor = has_cursor and (to.forgot or to.older)
  return to
end
