"""What operators may do while a trainer runs: look, pause, cancel, retry, repair, purge."""

from broker.clients.operator import Event, Finished, FunctionLibrary, Operator, Verification

__all__ = ["Event", "Finished", "FunctionLibrary", "Operator", "Verification"]
