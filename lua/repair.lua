-- Sets the counters to the values that the sets of tasks give.
-- Transition: none of a task
-- KEYS: state
-- ARGV: now, gate (3)
-- Returns: `name before after ...` of the counters that were wrong
-- Errors: gate's
-- Bound: constant; with max_concurrent_samples the number of sessions; if the counts of `wait` are wrong, the tasks that are running or ready
-- Flags: allow-oom
-- @include gate
-- @include counters

local FIELDS = gate_and({ 'open_size', 'awaited', 'ailing' })

return gated(FIELDS, function()
  local found, answer = recomputed(), {}
  for _, name in ipairs(COUNTERS) do
    local stored = counted(name)
    if stored ~= found[name] then
      answer[#answer + 1] = table.concat({ name, int_text(stored), int_text(found[name]) }, ' ')
      if name == 'ages' then Staleness.recount() else set(name, found[name]) end
    end
  end
  if #answer > 0 then
    Markers.arm_anyway()
    Markers.arm_trainer(true)
    event('repair', table.concat(answer, ' '))
  end
  return table.concat(answer, ' ')
end)
