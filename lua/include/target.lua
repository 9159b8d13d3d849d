-- @include state
-- Whether a recovery may go to a version, which steps survive it, and the list of recoveries.

local function number_of(epoch) return tonumber(epoch:match('^%d+')) or 0 end

-- Refuses a version below the floor, whose tasks may be freed (GONE), and a checkpoint of a history that a later recovery undid (UNDONE).
local function refuse_target(version, file_epoch, allow_loss, has_list)
  for by, to in (field('recoveries') or ''):gmatch('(%d+):(%d+)') do
    if file_epoch ~= '' and tonumber(by) > number_of(file_epoch) and version > tonumber(to) then
      fail('UNDONE', 'version', int_text(version), 'epoch', file_epoch, 'by', by, 'to', to)
    end
  end
  -- Below known_version, the server does not know the tasks of all steps, because a failover lost them. Only a checkpoint's list and cursor can
  -- bring these tasks back.
  local floor = math.max(num('floor'), has_list and 0 or num('known_version'))
  if version < floor and not allow_loss then
    fail('GONE', 'version', int_text(version), 'floor', int_text(floor), 'steps', int_text(floor - version))
  end
end

-- Returns the limit: both the server's history and the checkpoint's have consumed the batches of all steps below the limit. If the
-- two have different policies of version v (a failover lost v, and another trainer made v again), the limit is at most v - 1. A recovery that
-- replaces an unfinished one keeps the smaller limit.
local function common_limit(version)
  local limit = math.min(tonumber(field('recover_limit') or '') or MAX_INT, num('version'), version)
  local made = redis.call('HGETALL', POLICIES)
  for i = 1, #made, 2 do
    local v = tonumber(made[i])
    if given_policies[v] and given_policies[v] ~= made[i + 1] then limit = math.max(0, math.min(limit, v - 1)) end
  end
  return limit
end

-- Returns the recoveries that count, each as `epoch:version`: those of the server, those that a checkpoint knows (same form), and this one.
-- A recovery is left out if a later one went to the same or a lower version.
local function recoveries_with(known, epoch, version)
  local all, kept = {}, {}
  for by, to in (state.recoveries .. ' ' .. known):gmatch('(%d+):(%d+)') do
    all[#all + 1] = { tonumber(by), tonumber(to) }
  end
  all[#all + 1] = { number_of(epoch), version }
  table.sort(all, function(a, b) return a[1] > b[1] or (a[1] == b[1] and a[2] < b[2]) end)
  local lowest = math.huge
  for i = 1, #all do
    if all[i][2] < lowest and #kept < 1000 then
      lowest = all[i][2]
      kept[#kept + 1] = int_text(all[i][1]) .. ':' .. int_text(lowest)
    end
  end
  return table.concat(kept, ' ')
end
