"""What one can know of a run by looking: its numbers, the term that holds it up, its events and a judge of them.

Imports `protocol` and what that imports.
"""
