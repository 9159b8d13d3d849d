-- The scripts run inside Redis or Valkey: Lua 5.1 with these globals and no others.
std = "lua51"
read_globals = { "redis", "cjson", "KEYS", "ARGV" }
max_code_line_length = 120
-- A field of a script's header (KEYS, ARGV, Returns ...) is one line, however much it names.
max_comment_line_length = false
