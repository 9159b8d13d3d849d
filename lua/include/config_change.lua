-- @include creation
-- @include ages

-- Compares the config with the pairs of arguments from `first` on; with `update` it changes what differs. `accepted` follows a changed
-- batch size, and `held` is counted anew for another bound on held slots. Returns a list `name before name before ...` of the fields that changed (`-`: without a bound).
Config.change = function(first, update)
  local was, names, mode = {}, {}, state.on_stale
  for i = first, #ARGV, 2 do names[#names + 1] = ARGV[i] end
  names[#names + 1] = 'max_concurrent_rollouts' -- it may follow the batch size
  for i = 1, #names do was[names[i]] = field(names[i]) end
  local before = Config.agree(first, update)
  local changes = {}
  for i = 1, #names do
    local name = names[i]
    if was[name] ~= nil and state[name] ~= was[name] then
      changes[#changes + 1] = name
      changes[#changes + 1] = (was[name] or '') == '' and '-' or was[name]
      was[name] = nil
    end
  end
  if #changes == 0 then return changes end
  local b = batch_size()
  if b ~= before then
    bump('accepted', num('version') * (b - before))
    for step = num('version'), num('step_next') - 1 do
      local size = tonumber((redis.call('HGET', BATCHES, int_text(step)) or '0'):match('^%d+'))
      bump('accepted', math.max(b, size) - math.max(before, size))
    end
  end
  if was.max_concurrent_samples == nil and contains(names, 'max_concurrent_samples') then
    if Samples.most() then set('held', Samples.count()) end
    Markers.arm_for_work()
  end
  if mode ~= state.on_stale and (mode == 'wait' or Staleness.counts()) then Staleness.recount() end
  if Staleness.counts() then Markers.arm_trainer(true) end
  set('recheck', 1)
  Markers.arm_workers()
  event('configure', table.concat(changes, ' '))
  return changes
end
