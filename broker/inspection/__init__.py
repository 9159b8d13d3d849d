"""What one can know of a run by looking: its numbers, the term that holds it up, whether its counters are right.

Imports `protocol` and what that imports.
"""
