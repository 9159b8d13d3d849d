-- @include record_cache
-- The bytes of results, a string each under `result:<attempt>`. No other file makes their keys.
-- submit.lua stores them, include/rows.lua reads them, include/recovery.lua looks whether they are there.
-- Bytes are freed when a result is dropped (include/tasks.lua), and two steps after their batch (trim.lua).

-- A table of functions: the library has few local names left.
local RESULT_BYTES = {
  key = function(attempt) return RESULT .. attempt end,

  -- The bytes are deleted when flush() writes.
  free = function(attempt) unlink(RESULT .. attempt) end,

  -- The keys of the results of t's done slots. All slots of t must have been read.
  keys_of = function(t)
    local keys = {}
    for k = 0, t.samples - 1 do
      if letter(t, k) == 'D' then keys[#keys + 1] = RESULT .. attempt_id(t, k, slot_of(t, k)) end
    end
    return keys
  end,

  -- Whether trim has freed the bytes of t, a task of a batch. It goes from the oldest step on; `bytes_at` counts tasks.
  freed = function(t)
    local step, from = tonumber(t.step), num('bytes_from')
    return step < from or (step == from and num('bytes_at') > 0)
  end,
}
