-- Stops or resumes the handing out of work. Workers may submit in every mode.
-- Transition: none of a task
-- KEYS: state
-- ARGV: now, gate (3), mode (`paused`: no claims; `draining`: open slots of running tasks only; empty: resume)
-- Returns: the mode before, or `-`
-- Errors: gate's, BADARG
-- Bound: constant
-- Flags: allow-oom
-- @include gate

local FIELDS = gate_and({})

return gated(FIELDS, function()
  local mode, before = ARGV[FIRST_ARG], state.paused
  if mode ~= '' and mode ~= 'paused' and mode ~= 'draining' then
    fail('BADARG', 'argument', 'mode', 'given', mode)
  end
  set('paused', mode)
  arm_anyway()
  event(mode == '' and 'resume' or 'pause', mode == '' and '-' or mode)
  return before ~= '' and before or '-'
end)
