"""The classes that users call. Each method makes one call of the folders below, and blocks or is awaited.

Imports everything but the command line, the demo and the integrations.
"""
