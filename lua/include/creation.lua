-- @include records
-- @include lineage
-- How a run and an epoch begin.

-- Longer than a listpack entry: the state stays a hash table, so that reading its fields does not walk over all of them.
local ABOUT = 'state of a run of rollout-broker; change it through the commands and the client only, never by hand'

-- The config is the pairs of arguments from first_config on.
local function create_run(epoch, first_config)
  set('schema', 1)
  set('about', ABOUT)
  for i = first_config, #ARGV, 2 do set(ARGV[i], ARGV[i + 1]) end
  for _, name in ipairs({ 'version', 'step_next', 'accepted', 'running', 'floor', 'call', 'open_size', 'due', 'want',
    'order_seq', 'first_seq', 'session_seq', 'blob_seq', 'bytes_from', 'tasks_from' }) do
    set(name, 0)
  end
  set('epoch', epoch)
  set('version_epoch', epoch)
  set('tokens', epoch:match('%w+$'))
  mark_epoch(state.tokens, 0, '')
  for _, name in ipairs({ 'answer', 'recovering', 'paused', 'cursor', 'recoveries', 'checkpoints' }) do
    set(name, '')
  end
  hput(POLICIES, '0', epoch)
  event('open', epoch)
end

local function check_token(token)
  if not token:find('^%w+$') or #token < 8 or #token > 64 then fail('BADARG', 'argument', 'token', 'given', token) end
end

-- A call that arrives late must not fence the one that came after it: tokens that had the run before are known.
local function refuse_old_token(token)
  if (' ' .. state.tokens .. ' '):find(' ' .. token .. ' ', 1, true) then
    fail('FENCED', 'epoch', state.epoch, 'token', token)
  end
end

-- From here on the trainer before is fenced. The last 100 tokens are remembered.
local function take_over(epoch)
  set('epoch', epoch)
  set('call', 0)
  set('answer', '')
  set('want', 0)
  local tokens, n = epoch:match('%w+$') .. ' ' .. state.tokens, 0
  for at in tokens:gmatch('() ') do
    n = n + 1
    if n == 100 then
      tokens = tokens:sub(1, at - 1)
      break
    end
  end
  set('tokens', tokens)
  mark_epoch(epoch:match('%w+$'), num('order_seq'), field('lineage') or '')
end
