"""The script calls of the protocol, one function each: arguments in, a `ScriptCall` out.

Every function takes `run` (the run's name) first and `now` (the clock, as `script_call.Now`) by keyword.
"""
