-- Stops or resumes the handing out of work. Workers may submit in every mode.
-- Transition: at the end of a halt pending -> delayed, open -> waiting for its backoff, of what failed
-- KEYS: state
-- ARGV: now, gate (3), mode (`paused`: no claims; `draining`: open slots of running tasks only; empty: resume), halted (1: a resume that ends a halt, too)
-- Returns: `mode failures`: the mode before, or `-`; after how many failures the run was halted before, 0: it was not
-- Errors: gate's, BADARG
-- Bound: the tasks that failed before the halt, and their slots
-- Flags: allow-oom
-- @include gate
-- @include breaker

local FIELDS = gate_and({})

return gated(FIELDS, function()
  local mode, before = ARGV[FIRST_ARG], state.paused
  if mode ~= '' and mode ~= 'paused' and mode ~= 'draining' then
    fail('BADARG', 'argument', 'mode', 'given', mode)
  end
  local halted = state.halted or '0'
  set('paused', mode)
  if mode == '' and state.halted and rawget(ARGV, FIRST_ARG + 1) == '1' then
    Breaker.resume()
    event('halt_ended', halted)
  end
  Markers.arm_anyway()
  event(mode == '' and 'resume' or 'pause', mode == '' and '-' or mode)
  return (before ~= '' and before or '-') .. ' ' .. halted
end)
