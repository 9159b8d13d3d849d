"""Adapters to other systems. No other folder imports an adapter; an adapter imports its system only when used."""
