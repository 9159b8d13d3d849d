-- @include state
-- Whether a run may go to a version, and the recoveries before.

local function number_of(epoch) return tonumber(epoch:match('^%d+')) or 0 end

-- Refuses a version whose tasks were freed already, and a checkpoint of a history that a later recovery undid.
local function refuse_target(version, file_epoch, allow_loss, has_list)
  for by, to in (field('recoveries') or ''):gmatch('(%d+):(%d+)') do
    if file_epoch ~= '' and tonumber(by) > number_of(file_epoch) and version > tonumber(to) then
      fail('UNDONE', 'version', int_text(version), 'epoch', file_epoch, 'by', by, 'to', to)
    end
  end
  -- The server cannot bring back tasks of steps that a failover made it forget: a checkpoint's list and cursor can.
  local floor = math.max(num('floor'), has_list and 0 or num('known_version'))
  if version < floor and not allow_loss then
    fail('GONE', 'version', int_text(version), 'floor', int_text(floor), 'steps', int_text(floor - version))
  end
end

-- Steps below it were consumed by the history that survives, also by that of the checkpoint: where a failover lost a version,
-- another trainer may have made it anew. Kept through recoveries that are interrupted and begun anew.
local function common_limit(version)
  local limit = math.min(tonumber(field('recover_limit') or '') or MAX_INT, num('version'), version)
  local made = redis.call('HGETALL', POLICIES)
  for i = 1, #made, 2 do
    local v = tonumber(made[i])
    if given_policies[v] and given_policies[v] ~= made[i + 1] then limit = math.max(0, math.min(limit, v - 1)) end
  end
  return limit
end

-- The recoveries that count, as `epoch:version` each: one is implied by a later one to the same or a lower version.
-- Besides the server's there are those that a checkpoint knows, in the same form, and this one.
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
