-- An owner of an admission run reports where it stands, which renews its lease. It may ask for a slot, for the next rollout that it starts.
-- Transition: none of a task
-- KEYS: state
-- ARGV: now, owner, lease_ms, number (of the report), running, enqueued (now), accepted, rejected (since it joined), held (slots promised to it and not used or given up), asks (1: for one more slot), version (its provider's; -1: not known), recovery (number of its newest announcement; 0: none), recovered_to, accepted_then (accepted when it announced that)
-- Returns: granted (1: one more slot is promised to it), capacity (AReaL's formula), spare (slots that it may take and that are promised to no owner), accepted, running, enqueued, rejected, version, share (the owner's share of the batch), owners (how many have not ended)
-- Errors: NORUN, SCHEMA, CONFIG (field `kind`), NOSESSION (the run does not know the owner, or has forgotten it), BADARG
-- Bound: the number of owners
-- Flags: allow-oom
-- @include admission

-- Promises a slot to the owner if one is free, promised to no owner and not needed by another owner. A promise ends with the
-- owner's next report, which says how many it still holds, or with its lease.
local function promise(owners, o, asks)
  if not asks then return 0 end
  local granted = room(owners, o) >= 1 and 1 or 0
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
  load_shares(owners)
  o = o or owner_record(ended)
  -- An older report is ignored, and so is a late copy of an ended owner's report.
  local is_news = r.number > o.number or (r.number == o.number and not ended)
  if is_news then
    if ended then
      zdel(ENDED_OWNERS, r.owner)
      event('join', r.owner)
      revive_share(r.owner, o)
    end
    owners[r.owner] = o
    zput(OWNER_LEASES, r.owner, now + r.lease)
    take_numbers(o, r)
    take_life(owners, o, r)
    take_recovery(owners, o, r)
    take_version(o, r.version)
  end
  end_expired(owners, r.owner, r.lease) -- after take_version: a dead owner's rollouts that this version trained are not lost
  assign_shares(owners)
  local live = total(owners)
  if is_news then
    granted = promise(owners, o, r.asks)
    put_owner(r.owner, o)
  end
  wake_owners(owners)
  local shown = blocked() and math.min(capacity(), 0) or capacity()
  local spare = owners[r.owner] and room(owners, o) or 0
  local answer = { granted, shown, spare, num('accepted'), num('running'), num('admission_enqueued'),
    num('total_rejected'), num('version'), o.share or 0, live }
  for i = 1, #answer do answer[i] = int_text(answer[i]) end
  flush()
  return answer
end)
