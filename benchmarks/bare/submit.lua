-- The least that a submit can do: compare the attempt, store the result, end the lease, count.
-- KEYS: state, leases, ready. ARGV: task prefix, then per task: id, attempt, result. Six commands for each task.
local answer = {}
for i = 2, #ARGV, 3 do
  local task = ARGV[1] .. ARGV[i]
  if redis.call('HGET', task, 'attempt') == ARGV[i + 1] then
    redis.call('SET', task .. ':result', ARGV[i + 2])
    redis.call('HSET', task, 'state', 'done')
    redis.call('ZREM', KEYS[2], ARGV[i])
    redis.call('ZADD', KEYS[3], ARGV[i + 1], ARGV[i])
    redis.call('HINCRBY', KEYS[1], 'accepted', 1)
    answer[#answer + 1] = 'accepted'
  else
    answer[#answer + 1] = 'unknown'
  end
end
return answer
