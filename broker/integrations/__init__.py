"""Adapters to other systems, each behind an extra; the core imports none of them."""
