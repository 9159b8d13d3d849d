"""What a worker remembers of its runs, how it keeps its leases, and how it runs a handler many times at once.

Imports `connections` and what that imports.
"""
