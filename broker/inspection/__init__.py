"""Looks at a run: its numbers, the term of the capacity formula that binds, its events, and a judge of the events.

Imports `protocol` and what it imports.
"""
