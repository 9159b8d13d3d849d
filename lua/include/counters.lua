-- @include admission_owners
-- @include ages
-- The counters, recomputed from the structures: by (I1), (I2) and (I3) of the protocol, the others as sizes.

local function recomputed()
  local version, step_next, b = num('version'), num('step_next'), batch_size()
  local open_size = redis.call('ZCARD', key('batch:' .. int_text(step_next)))
  local accepted = version * b + redis.call('ZCARD', READY) + open_size
  for step = version, step_next - 1 do
    accepted = accepted + math.max(b, redis.call('ZCARD', key('batch:' .. int_text(step))))
  end
  if Run.is_admission() then accepted = num('accepted') end -- its owners count the rollouts; no set holds them
  return {
    running = redis.call('ZCARD', RUNNING) + admission_running(), accepted = accepted, open_size = open_size,
    held = Samples.most() and Samples.count() or num('held'),
    ages = Staleness.counts() and redis.call('ZCARD', RUNNING) + redis.call('ZCARD', READY) or 0,
    awaited = redis.call('HLEN', key('awaited')), ailing = redis.call('HLEN', key('ailing')),
  }
end

local COUNTERS = { 'accepted', 'running', 'open_size', 'held', 'awaited', 'ailing', 'ages' }

-- The stored value of a counter. Of `ages` it is the sum, outside of the mode `wait` 0.
local function counted(name)
  if name ~= 'ages' then return num(name) end
  return Staleness.counts() and Staleness.total() or 0
end
