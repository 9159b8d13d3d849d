-- Ends an owner of an admission run: its last report counts, then its running and enqueued rollouts no longer do.
-- Transition: none of a task
-- KEYS: state
-- ARGV: as of admission_report
-- Returns: 1, or 0 when the owner had ended already
-- Errors: NORUN, SCHEMA, CONFIG (field `kind`), BADARG
-- Bound: the number of owners
-- Flags: allow-oom
-- @include admission

return run(function()
  local r = report_args(2)
  load_admission()
  local owners = live_owners()
  local o = owners[r.owner]
  if not o then return 0 end
  load_shares(owners)
  if r.number >= o.number then
    take_numbers(o, r)
    take_life(owners, o, r)
    take_recovery(owners, o, r)
    take_version(o, r.version)
  end
  end_expired(owners, r.owner, r.lease)
  end_owner(owners, r.owner, 'left')
  assign_shares(owners)
  total(owners)
  wake_owners(owners)
  flush()
  return 1
end)
