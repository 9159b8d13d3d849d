-- Makes the caller the trainer of the run; creates a run that does not exist.
-- Transition: none of a task; epoch n -> n+1, and the previous trainer is fenced.
-- KEYS: state
-- ARGV: now, token (the caller chooses it: so a repeated open is recognised), update (1: change a config that differs), then pairs of config field, value (those that the caller set; none: the run must exist)
-- Returns: `epoch version step_next created`
-- Errors: NORUN, SCHEMA, CONFIG (field, stored, given), FENCED (the token of an earlier epoch), BADARG
-- Bound: the config fields; if max_concurrent_samples changes, also the sessions; if on_stale becomes or was `wait`, also the tasks that are running or ready
-- Flags: none
-- @include config_change

local FIELDS = hot_and({ 'epoch', 'tokens', 'order_seq', 'lineage', 'supply' })

local CONFIG_START = 4

return run(function()
  local token, update = ARGV[2], ARGV[3] == '1'
  check_token(token)
  if #ARGV % 2 == 0 then fail('BADARG', 'argument', 'config', 'given', #ARGV) end
  load_state(FIELDS, #ARGV >= CONFIG_START)
  if not state.schema then
    local epoch = '1.' .. token
    create_run(epoch, CONFIG_START)
    set('trainer_at', now)
    flush()
    return epoch .. ' 0 0 1'
  end
  Run.refuse_admission()
  local answer_tail = ' ' .. state.version .. ' ' .. state.step_next .. ' 0'
  if state.epoch:match('%.(%w+)$') == token then return state.epoch .. answer_tail end
  refuse_old_token(token)
  Config.change(CONFIG_START, update)
  local number = tonumber(state.epoch:match('^%d+')) + 1
  local epoch = int_text(number) .. '.' .. token
  take_over(epoch)
  set('trainer_at', now)
  event('open', epoch)
  flush()
  return epoch .. answer_tail
end)
