"""Measures the broker beside other queues and beside the physical limit: `python -m benchmarks`."""
