-- @include slot_bound
-- Checks who may change the run, and stores answers, so that a repeated call has no second effect.
-- ARGV[2] `t`: the caller is the trainer; ARGV[3] is its epoch token, ARGV[4] the number of the call.
-- ARGV[2] `o`: the caller is an operator, whom no epoch fences; ARGV[3] is a request id, ARGV[4] is not used. The last 64 answers are kept.
-- A call that is refused after these checks uses up its number too. Else a late copy of the refused call could run in place of the next call.

local REQUESTS, REQUEST_ORDER = key('requests'), key('request_order')
local FIRST_ARG = 5 -- the script's own arguments start here

-- The state fields that a gated script reads: the hot ones, the gate's, and its own.
local function gate_and(more)
  local names = { 'epoch', 'call', 'answer' }
  for i = 1, #more do names[i + 3] = more[i] end
  return hot_and(names)
end

-- Checks the caller. Returns the stored answer if this call was executed before, else nil.
local function gate()
  local caller, id = ARGV[2], ARGV[3]
  if caller == 'o' then
    if #id < 1 or #id > 100 then fail('BADARG', 'argument', 'request_id', 'given', id) end
    return redis.call('HGET', REQUESTS, id) or nil
  end
  if caller ~= 't' then fail('BADARG', 'argument', 'caller', 'given', caller) end
  if id ~= (state.epoch or ''):match('%.(%w+)$') then fail('FENCED', 'epoch', state.epoch, 'token', id) end
  local call, last = int_arg(4, 'call', 1, MAX_INT), num('call')
  if call == last then return state.answer end
  if call < last then fail('OLDCALL', 'call', int_text(call), 'last', int_text(last)) end
  if call > last + 1 then fail('REWOUND', 'call', int_text(call), 'last', int_text(last), 'version', state.version) end
  return nil
end

local function refuse_while_recovering()
  if state.recovering and state.recovering ~= '' then fail('RECOVERING', 'version', state.recovering) end
end

-- Stores the answer under the call's number or id, and writes everything.
local function remember(answer)
  if ARGV[2] == 't' then
    set('call', ARGV[4])
    if answer ~= state.answer then set('answer', answer) end
  else
    bump('total_requests', 1)
    hput(REQUESTS, ARGV[3], answer)
    zput(REQUEST_ORDER, ARGV[3], num('total_requests'))
    local old = redis.call('ZRANGE', REQUEST_ORDER, 0, -64)
    for i = 1, #old do
      zdel(REQUEST_ORDER, old[i])
      hdel(REQUESTS, old[i])
    end
  end
  flush(true)
end

-- Stored refusals begin with `!`.
local function reply(answer)
  if answer:sub(1, 1) == '!' then return redis.error_reply(answer:sub(2)) end
  return answer
end

-- Runs a script behind the gate. `body` decides and returns the answer, a string; it writes only when it can no longer fail.
-- `body` may also return a list, which goes with the answer the first time only: a repeated call gets the string alone.
local function gated(fields, body)
  return run(function()
    load_state(fields)
    local stored = gate()
    if stored then return reply(stored) end
    local ok, answer, more = pcall(body)
    if not ok then
      if type(answer) ~= 'table' or not answer.coded then error(answer, 0) end
      drop_writes()
      state_changed = {}
      answer = '!' .. answer.coded .. ' used_call=' .. ARGV[4]
    end
    remember(answer)
    if ok and more then
      table.insert(more, 1, answer)
      return more
    end
    return reply(answer)
  end)
end

-- The state of a task in words, for answers.
local function state_word(t)
  if not t then return 'unknown' end
  if t.state == 'B' then
    if tonumber(t.step) >= num('step_next') then return 'batched' end
    return tonumber(t.step) < num('version') and 'consumed' or 'sealed'
  end
  return ({ P = 'pending', D = 'delayed', R = 'running', Y = 'ready', X = 'dead', J = 'rejected' })[t.state]
end

-- Whether the task may still be taken out of the run: it is not dead or rejected, and not in a sealed batch.
local function is_unsealed(t)
  return t.state ~= 'X' and t.state ~= 'J' and (t.state ~= 'B' or tonumber(t.step) >= num('step_next'))
end

local MOST_SLOTS_OF_CALL = 1024

-- Reads the tasks that the arguments from `from` on name into the cache. Returns their ids: the first ones that have at most
-- MOST_SLOTS_OF_CALL slots together, one at least.
local function task_args(from)
  local ids = {}
  for i = from, #ARGV do ids[#ids + 1] = ARGV[i] end
  if #ids < 1 or #ids > 1000 then fail('BADARG', 'argument', 'tasks', 'given', #ids, 'low', 1, 'high', 1000) end
  return { unpack(ids, 1, within_slots(ids, MOST_SLOTS_OF_CALL)) }
end
