-- @include writes
-- How long attempts generated, in ms: of the accepted ones, and of those in vain, by cause (protocol, "Lengths"). All are fields of the state:
-- n_results, ms_results (accepted), n_thrown, ms_thrown (of these, thrown away since), n_cut (ended without a result), ms_lost_<cause>.

local Lengths = {}
Lengths.ms = 0 -- of the results that this call accepts

-- An attempt generated in vain for so long.
Lengths.lost = function(attempt, why, ms)
  bump('ms_lost_' .. why, ms)
  if ms > 0 then event('lost', table.concat({ attempt, why, int_text(ms) }, ' ')) end
end

-- An attempt ends without a result; why is the cause. From then on the slot's `at` says when.
Lengths.cut = function(attempt, s, why)
  Lengths.lost(attempt, why, math.max(0, now - s.at))
  bump('n_cut', 1)
  s.at = int_text(now)
end

-- A result is accepted. The slot's `why` holds its length from then on.
Lengths.done = function(s)
  local ms = math.max(0, now - s.at)
  Lengths.ms = Lengths.ms + ms
  s.why = int_text(ms)
end

-- Counts the results that this call accepted.
Lengths.count = function(n)
  bump('ms_results', Lengths.ms)
  bump('n_results', n)
end

-- An accepted result is thrown away. why: the cause. A release that did not measure lengths may have accepted it.
Lengths.thrown = function(attempt, s, why)
  local ms = tonumber(s.why)
  if not ms then return end
  Lengths.lost(attempt, why, ms)
  bump('ms_thrown', ms)
  bump('n_thrown', 1)
  s.why = ''
end

-- A result comes after the end of its attempt, and no newer attempt has the slot.
Lengths.late = function(attempt, s)
  Lengths.lost(attempt, 'late', math.max(0, now - s.at))
  s.at = int_text(now)
end
