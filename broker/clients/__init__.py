"""The classes that users call: each method is one call of what lies in the folders below, blocking or awaited.

Imports everything but the command line, the demo and the integrations.
"""
