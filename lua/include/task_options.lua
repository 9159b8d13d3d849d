-- @include frame
-- The options of a task: what an enqueue says of it besides its id and payload. A new option needs a row here, and no place in a list:
-- calls name it (`samples=8,priority=3`; what a call does not name has its default), and records hold it behind min_samples.
-- `t.fixed` of a record: `priority,order/born,samples,min_samples`, then `/name=value` for each option without a place of its own.

local TaskOptions = {}

local TASK_OPTIONS = { -- has_place: in `t.fixed`, and not by its name
  priority = { default = 0, low = -1000, high = 1000, has_place = true },
  samples = { default = 1, low = 1, high = 1024, has_place = true },
  min_samples = { default = 1, low = 1, high = 1024, has_place = true },
  enough = { low = 1, high = 1024 }, -- not given: all samples
  timeout_ms = { low = 0, high = 31622400000 }, -- not given: the run's attempt_timeout_ms
  max_attempts = { low = 1, high = 1000000 }, -- not given: the run's
}

local LAST_READ = {} -- the text that was read last, and its options

-- Returns the options that a call gives as text, by name; and `before`, `behind`: what is before and behind the order in `t.fixed`.
-- Most tasks have the options of the task before, also of a call before.
TaskOptions.read = function(text)
  if text == LAST_READ.text then return LAST_READ.options end
  local options, others = {}, ''
  for name, option in pairs(TASK_OPTIONS) do options[name] = option.default end
  for pair in text:gmatch('[^,]+') do
    local name, value = pair:match('^([%l_]+)=(.*)$')
    local option = TASK_OPTIONS[name or '']
    if not option then fail('BADARG', 'argument', 'task_option', 'given', pair:sub(1, 100)) end
    options[name] = int_in(value, name, option.low, option.high)
    if not option.has_place then others = others .. '/' .. name .. '=' .. int_text(options[name]) end
  end
  if options.enough then int_in(small_text(options.enough), 'enough', 1, options.samples) end
  int_in(small_text(options.min_samples), 'min_samples', 1, options.enough or options.samples)
  options.before = small_text(options.priority) .. ','
  options.behind = ',' .. small_text(options.samples) .. ',' .. small_text(options.min_samples) .. others
  LAST_READ.text, LAST_READ.options = text, options
  return options
end

-- Returns `t.fixed` of a task with these options. born: the order of its first enqueue, if that is another one.
TaskOptions.fixed = function(options, order, born)
  return options.before .. int_text(order) .. (born and '/' .. int_text(born) or '') .. options.behind
end

-- The record of a task that is enqueued with these options, as record_layout.lua lays it out.
TaskOptions.new_record = function(options, order)
  return 'P,' .. TaskOptions.fixed(options, order) .. ',0,0,-1,-1,0,0,-1,'
end

-- Returns the parts of `t.fixed` by name, as numbers: the options without `samples`, `order`, and `born`, the order of the first enqueue.
TaskOptions.of = function(t)
  local priority, order, born, min, others = t.fixed:match('^([^,]*),(%d+)/?(%d*),[^,]*,(%d+)(.*)$')
  local parts = {
    priority = tonumber(priority), order = tonumber(order), born = tonumber(born ~= '' and born or order),
    min_samples = tonumber(min),
  }
  if others ~= '' then
    for name, value in others:gmatch('/([%l_]+)=(%d+)') do parts[name] = tonumber(value) end
  end
  return parts
end

-- Returns an option without a place of its own, or nil: the task does not have it.
TaskOptions.own = function(t, name)
  if not t.fixed:find('=', 1, true) then return nil end
  return tonumber(t.fixed:match('/' .. name .. '=(%d+)'))
end

TaskOptions.set_priority = function(t, priority) t.fixed = t.fixed:gsub('^[^,]*', int_text(priority)) end

TaskOptions.set_order = function(t, order)
  t.fixed = t.fixed:gsub('^([^,]*),[^,]*', '%1,' .. int_text(order) .. '/' .. int_text(TaskOptions.of(t).born))
end
