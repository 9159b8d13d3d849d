"""A worker's state, its leases, and the runners that call a handler for many attempts at once.

Imports `connections` and what that imports.
"""
