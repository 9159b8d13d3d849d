-- An owner of an admission run says where it stands, which renews its lease, and may ask for a slot: the next rollout that it starts.
-- Transition: none of a task
-- KEYS: state
-- ARGV: now, owner, lease_ms, number (of the report), running, enqueued (now), accepted, rejected (since it joined), held (slots promised to it and not used or given up), asks (1: for one more), version (its provider's; -1: not known), recovery (number of its newest announcement; 0: none), recovered_to, accepted_then (accepted when it announced that)
-- Returns: granted (1: one more slot is promised to it), capacity (AReaL's formula), spare (slots promised to nobody), accepted, running, enqueued, rejected, version
-- Errors: NORUN, SCHEMA, CONFIG (field `kind`), NOSESSION (the owner is not known, or was forgotten), BADARG
-- Bound: the owners
-- Flags: allow-oom
-- @include admission

-- A slot is promised if it is free and not promised to an owner. A promise ends with the owner's own next report, or with its lease.
local function promise(owners, o, asks)
  if not asks then return 0 end
  local granted = spare(owners) >= 1 and 1 or 0
  o.reserved = o.reserved + granted
  o.waiting = granted == 1 and 0 or now
  return granted
end

return run(function()
  local r = report_args(2)
  load_admission()
  local owners, granted = live_owners(), 0
  local o = owners[r.owner]
  local ended = not o and redis.call('HGET', OWNERS, r.owner)
  if not o and not ended then fail('NOSESSION', 'session', r.owner) end
  end_expired(owners, r.owner, r.lease)
  o = o or owner_record(ended)
  -- An older report is ignored, and so is a late copy of an ended owner's report.
  if r.number > o.number or (r.number == o.number and not ended) then
    if ended then
      zdel(ENDED_OWNERS, r.owner)
      event('join', r.owner)
    end
    owners[r.owner] = o
    zput(OWNER_LEASES, r.owner, now + r.lease)
    take_numbers(o, r)
    take_recovery(o, r)
    take_version(o, r.version)
    total(owners)
    granted = promise(owners, o, r.asks)
    put_owner(r.owner, o)
  end
  total(owners)
  wake_owners(owners)
  local shown = blocked() and math.min(capacity(), 0) or capacity()
  local answer = { granted, shown, spare(owners), num('accepted'), num('running'), num('admission_enqueued'),
    num('total_rejected'), num('version') }
  for i = 1, #answer do answer[i] = int_text(answer[i]) end
  flush()
  return answer
end)
