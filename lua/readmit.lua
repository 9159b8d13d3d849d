-- Ends the quarantine of sessions before its time.
-- Transition: none
-- KEYS: state
-- ARGV: now, gate (3), then the names of sessions, or of workers for all their sessions; none: all
-- Returns: the sessions, with spaces between them
-- Errors: gate's, BADARG
-- Bound: the sessions that were quarantined and have had no result since
-- Flags: allow-oom
-- @include gate
-- @include quarantine

local FIELDS = gate_and({})

return gated(FIELDS, function()
  local wanted, there = {}, {}
  if #ARGV - FIRST_ARG + 1 > 1000 then fail('BADARG', 'argument', 'sessions', 'given', #ARGV, 'high', 1000) end
  for i = FIRST_ARG, #ARGV do wanted[ARGV[i]] = true end
  local ids = redis.call('ZRANGE', key('quarantine'), 0, -1)
  for i = 1, #ids do
    if #ARGV < FIRST_ARG or wanted[ids[i]] or wanted[ids[i]:match('^(.*)~')] then
      Quarantine.forget(ids[i])
      there[#there + 1] = ids[i]
      event('readmit', ids[i])
    end
  end
  return table.concat(there, ' ')
end)
