"""What a user's handler raises to say how its attempt ended. These are no errors of the broker."""

from __future__ import annotations


class WorkerFault(Exception):
    """Raised by a user's handler: the worker could not do its work (its engine is down, its sandbox is gone).

    It counts against the worker and not against the task: another worker tries the slot, and no attempt of
    `max_attempts` is used up. Faults of three different sessions at one slot count as one failure of the task. Raise it
    from the error that was met: the traceback is kept.

    Args:
        reason: what is wrong with the worker, for people.
    """

    def __init__(self, reason: str = "") -> None:
        super().__init__(reason)
        self.reason = reason


class Reject(Exception):
    """Raised by a user's handler: the rollout is of no use and should not be tried again.

    Args:
        reason: why, for the events and for people.
    """

    def __init__(self, reason: str = "") -> None:
        super().__init__(reason)
        self.reason = reason
