"""What a trainer remembers of its run, and how it fills, forms and reads batches.

Imports `connections`, `inspection` and what these import.
"""
