-- @include record_cache
-- @include lineage
-- How a run and an epoch begin.

local Config = {}

-- The config fields without a row in DEFAULTS.
Config.NO_DEFAULT = { consumer_batch_size = true, max_concurrent_rollouts = true, staleness_limit = true }

-- Returns arguments i and i + 1: the name of a config field and its value. Both are checked: every value but on_stale's is a whole number,
-- or an empty text for no bound. Ranges are the client's to check.
Config.arg = function(i)
  local name, value = ARGV[i], ARGV[i + 1]
  if not DEFAULTS[name] and not Config.NO_DEFAULT[name] then
    fail('BADARG', 'argument', 'config', 'given', name:sub(1, 100))
  end
  local is_number = value and value:find('^%d+$') and #value < 17
  local may_be_empty = name == 'max_staleness' or name == 'staleness_limit' or name == 'max_concurrent_samples'
  if name ~= 'on_stale' and not is_number and not (may_be_empty and value == '') then
    fail('BADARG', 'argument', name, 'given', (value or ''):sub(1, 100), 'expected', 'a whole number')
  end
  return name, value
end

-- The C of a run whose C nobody gave: B, or as good as none where max_concurrent_samples takes its place.
Config.default_concurrency = function() return Samples.most() and 1000000000 or batch_size() end

-- Whether nobody gave a C. Earlier releases did not store whether C was given; then C follows B if they are equal.
Config.follows = function()
  return field('concurrency_given') ~= '1' and tonumber(state.max_concurrent_rollouts) == Config.default_concurrency()
end

Config.follow = function() set('max_concurrent_rollouts', int_text(Config.default_concurrency())) end

-- Stores every config field: those given, in pairs of arguments from `first` on, and the defaults of the others.
Config.create = function(first)
  for name, value in pairs(DEFAULTS) do set(name, value) end
  set('staleness_limit', '')
  for i = first, #ARGV, 2 do set(Config.arg(i)) end
  if not state.consumer_batch_size then fail('BADARG', 'argument', 'consumer_batch_size', 'given', 'nothing') end
  if state.max_concurrent_rollouts then set('concurrency_given', 1) else Config.follow() end
end

-- Compares the given fields with the stored ones. Without `update` a difference is refused (CONFIG); with it, the stored field changes.
-- Fields that are not given stay; only C follows B or max_concurrent_samples if nobody ever gave C. Returns the batch size before.
Config.agree = function(first, update)
  local before, follows = batch_size(), Config.follows()
  for i = first, #ARGV, 2 do
    local name, given = Config.arg(i)
    local stored = field(name)
    if name == 'staleness_limit' and not stored then stored = state.max_staleness end
    if stored ~= given then
      if not update then fail('CONFIG', 'field', name, 'stored', stored or '', 'given', given) end
      set(name, given)
    end
    if name == 'max_concurrent_rollouts' and update then
      follows = false
      if field('concurrency_given') ~= '1' then set('concurrency_given', 1) end
    end
  end
  if follows and not Config.follows() then Config.follow() end
  return before
end

-- Creates the run with the config in the pairs of arguments from `first_config` on.
local function create_run(epoch, first_config)
  Config.create(first_config)
  set('schema', 1)
  -- This text is longer than an entry of a listpack may be, so the server keeps the state as a hash table. In a listpack, reading one
  -- field walks over the others.
  set('about', 'state of a run of rollout-broker; change it through the commands and the client only, never by hand')
  for _, name in ipairs({ 'version', 'step_next', 'accepted', 'running', 'held', 'floor', 'call', 'open_size', 'due',
    'want',
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

-- Refuses a token that had the run before: an old `open` or `recover_begin` that arrives late must not fence the epoch that came after it.
local function refuse_old_token(token)
  if (' ' .. state.tokens .. ' '):find(' ' .. token .. ' ', 1, true) then
    fail('FENCED', 'epoch', state.epoch, 'token', token)
  end
end

-- Begins an epoch: the previous trainer is fenced from here on. The run remembers the last 100 tokens.
local function take_over(epoch)
  set('epoch', epoch)
  set('call', 0)
  set('answer', '')
  set('want', 0)
  if state.on_stale == 'wait' then set('wait', '') end -- nobody has waited while there was no trainer
  if field('supply') == 'more' then set('supply', 'interrupted') end -- the feeder was the previous trainer's
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
