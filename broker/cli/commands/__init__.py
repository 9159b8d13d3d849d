"""The commands, one module each.

A module has `configure(parser)`, which adds its arguments, and `run(namespace, output) -> int`, which returns the exit
code. `broker/cli/catalogue.py` lists the modules, with a line about each for `broker --help`.
"""
