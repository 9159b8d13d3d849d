-- @include fields
-- Timers: the run's clock, the lease clock, and when the first timer of all is due.

local now = 0 -- the run's clock
local lease_lag = 0 -- by how many ms the lease clock is behind the run's clock
local lag_before = 0 -- the lease_lag before this script
local lease_step = math.huge -- by how many ms the lease clock may advance between two scripts

-- Sets the run's clock and the lease clock.
-- The run's clock is the server's time plus an offset, and never goes back. When the server's clock steps back (for example in a failover
-- to a server whose clock is behind), the offset grows by that step, once, and time goes on from where it stood.
-- Between two scripts the lease clock advances with the run's clock, but by at most a third of the shortest lease. A live worker renews
-- three times within its lease. While the server is frozen or absent, or when its clock steps forward, no worker can renew. Then
-- each lease loses that third, not the whole gap.
-- If ARGV[1] gives the time, that is the run's clock (unless a later time was seen), and the lease clock has no such bound.
local function set_clock()
  local before = num('clock')
  lease_lag = num('lease_lag')
  lag_before = lease_lag
  if ARGV[1] ~= '' then
    now = math.max(before, int_arg(1, 'now', 1, 35184372088832))
  else
    local time, offset, shortest = redis.call('TIME'), num('clock_offset'), num('shortest_lease')
    local at = time[1] * 1000 + math.floor(time[2] / 1000) + offset
    now = math.max(before, at)
    if now > at then set('clock_offset', offset + now - at) end
    if shortest > 0 then lease_step = math.max(1, math.floor(shortest / 3)) end
    if now - before > lease_step then
      lease_lag = lease_lag + now - before - lease_step
      set('lease_lag', lease_lag)
    end
  end
  if now > before then state_changed.clock = now end -- scripts read `now`
end

-- Deadlines of sessions and attempts are stored as LEASE_ZERO plus the lease clock. A smaller deadline was stored by a release that had
-- only the run's clock. While such a release shares the run, it takes the deadlines of this release to be far away, and ends none of them.
local LEASE_ZERO = 70368744177664

-- The deadline of a lease of `ms` milliseconds that begins now.
local function lease_end(ms) return LEASE_ZERO + now - lease_lag + ms end

-- When a stored deadline passes, on the run's clock, if the lease clock does not fall further behind until then.
local function run_time(at) return at < LEASE_ZERO and at or at - LEASE_ZERO + lease_lag end

local Due = {}

-- When the first timer of the set `name` is due, on the run's clock; nil: the set is empty. on_clock: run_time or silent_from.
Due.of = function(name, on_clock)
  local first
  for _, low in ipairs({ '-inf', LEASE_ZERO }) do
    local at = redis.call('ZRANGEBYSCORE', name, low, '+inf', 'WITHSCORES', 'LIMIT', 0, 1)[2]
    if at then first = math.min(first or math.huge, on_clock(tonumber(at))) end
  end
  return first
end

-- When the first timer of all is due, on the run's clock; 0: there is none.
Due.first = function()
  local first = 0
  for _, name in ipairs({ DELAYED, RETRIES, DEADLINES, SESSIONS }) do
    local at = Due.of(name, run_time)
    if at and (first == 0 or at < first) then first = at end
  end
  return first
end

-- The stored time when the first timer is due, 0: there is none. It is a lower bound, because the lease clock can only fall further behind.
-- Claims look at the timers only once it has passed. A release that does not know the leases of this one stores `due` alone: then the timers
-- are looked at anew.
Due.stored = function()
  if not state_changed.due and field('due') ~= field('due_by_us') then set('due', Due.first()) end
  return num('due')
end

-- Remembers that a timer is due at `at`, on the run's clock.
local function due_at(at)
  local first = Due.stored()
  if first == 0 or at < first then set('due', at) end
end
