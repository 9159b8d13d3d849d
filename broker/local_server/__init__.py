"""The embedded server, which the broker starts by itself, and the places of its socket and its files.

Imports `errors` and `values`.
"""
