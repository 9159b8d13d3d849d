-- Changes fields of the config of a run that goes on. It fences nobody.
-- Transition: none of a task
-- KEYS: state
-- ARGV: now, gate (3), then pairs of config field, value
-- Returns: `name before ...` of the fields that changed (`-`: without a bound), or an empty text
-- Errors: gate's, RECOVERING, CONFIG (the run is of kind `admission`), BADARG
-- Bound: the config fields; if max_concurrent_samples changes, also the sessions; if on_stale becomes or was `wait`, also the tasks that are running or ready
-- Flags: allow-oom
-- @include gate
-- @include config_change

local FIELDS = gate_and({ 'admission' })

return gated(FIELDS, function()
  refuse_while_recovering()
  Run.refuse_admission()
  if (#ARGV - FIRST_ARG) % 2 == 0 then fail('BADARG', 'argument', 'config', 'given', #ARGV) end
  return table.concat(Config.change(FIRST_ARG, true), ' ')
end)
