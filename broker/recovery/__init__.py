"""Checkpoints of a run: how they are written, found and recovered from.

Imports `trainer` and what it imports.
"""
