"""Servers that the broker starts by itself: the embedded one, where its socket lies, where its files may be.

Imports `errors` and `values`.
"""
