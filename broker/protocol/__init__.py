"""The script calls of the protocol, one function each: arguments in, a `ScriptCall` out.

Every function takes `run` (the run's name) first and `now` (an injected clock in milliseconds, None for the server's)
by keyword.
"""
