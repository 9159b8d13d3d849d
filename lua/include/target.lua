-- @include state
-- Whether a run may go to a version.

local function number_of(epoch) return tonumber(epoch:match('^%d+')) or 0 end

-- Refuses a version whose tasks were freed already, and a checkpoint of a future that a later recovery undid: it would bring back what is lost for good.
local function refuse_target(version, file_epoch, allow_loss)
  for by, to in (field('recoveries') or ''):gmatch('(%d+):(%d+)') do
    if file_epoch ~= '' and tonumber(by) > number_of(file_epoch) and version > tonumber(to) then
      fail('UNDONE', 'version', int_text(version), 'epoch', file_epoch, 'by', by, 'to', to)
    end
  end
  if version < num('floor') and not allow_loss then
    fail('GONE', 'version', int_text(version), 'floor', state.floor, 'steps', int_text(num('floor') - version))
  end
end
