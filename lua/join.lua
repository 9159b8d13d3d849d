-- Starts a session: one connected worker process with a lease. The server numbers the sessions, so no id is used twice.
-- Transition: none of a task
-- KEYS: state
-- ARGV: now, worker, nonce, lease_ms (0: the run's default)
-- Returns: session, lease_ms, version, version_epoch, now, max_result_bytes, result_ttl_ms
-- Errors: NORUN, SCHEMA, CONFIG (field `kind`: an admission run has no tasks), BADARG
-- Bound: constant
-- Flags: allow-oom
-- @include record_cache

local FIELDS = hot_and({ 'lease_ms', 'session_seq', 'max_result_bytes', 'result_ttl_ms', 'admission' })

return run(function()
  load_state(FIELDS)
  Run.refuse_admission()
  local worker, nonce = ARGV[2], ARGV[3]
  if #worker < 1 or #worker > 200 or not worker:find('^[%w%._:/@+-]+$') then
    fail('BADARG', 'argument', 'worker', 'given', worker)
  end
  if not nonce:find('^%w+$') or #nonce > 64 then fail('BADARG', 'argument', 'nonce', 'given', nonce) end
  local lease = int_arg(4, 'lease_ms', 0, 86400000)
  if lease == 0 then lease = num('lease_ms') end
  bump('session_seq', 1)
  local id = worker .. '~' .. state.session_seq .. '.' .. nonce
  zput(SESSIONS, id, lease_end(lease))
  zput(LEASES, id, lease)
  due_at(now + lease)
  hput(CALLS, id, '0 ' .. int_text(lease))
  event('join', id)
  flush()
  return { id, lease, state.version, state.version_epoch, int_text(now), state.max_result_bytes, state.result_ttl_ms }
end)
