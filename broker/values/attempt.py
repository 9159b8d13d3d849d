"""An attempt, as a worker gets it."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from threading import RLock
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from broker.values.policy import Policy

# One lock for all attempts: it is held for two instructions, and only for a cancellation. A fork takes the lock first,
# so that no child begins with a lock that a thread of its parent holds.
_cancelling: Final = RLock()
os.register_at_fork(before=_cancelling.acquire, after_in_parent=_cancelling.release, after_in_child=_cancelling.release)


# eq=False: payloads with NumPy arrays cannot be compared; an attempt equals only itself.
@dataclass(slots=True, eq=False)
class Attempt:
    """One claim of one slot of a task: what a worker works on.

    Args:
        id: globally unique; sent back with the result.
        run: the run's name.
        task: the task's id.
        slot: which of the task's samples this is, from 0.
        payload: the task's payload, decoded; arrays in it are read-only, take the `.copy()` of one to change it.
        version: version of `policy`.
        policy: the policy to generate with.
        samples: how many samples the task asks for.
        tries: expiries and errors of this slot so far.
        blob: the trainer's blob of this version (for example where the weights are), or None.
        judges: whether the task is one of an evaluation (`Judged`): policy, version and blob are those that it carries.
    """

    id: str
    run: str
    task: str
    slot: int
    payload: Any = field(repr=False)
    version: int
    policy: Policy
    samples: int
    tries: int
    blob: bytes | None = field(default=None, repr=False)
    judges: bool = field(default=False, repr=False)
    _cancel_reason: str | None = field(default=None, init=False, repr=False)

    @property
    def cancelled(self) -> bool:
        """True once the result will not be used: stop generating. The heartbeat sets it from its thread."""
        return self._cancel_reason is not None

    @property
    def cancel_reason(self) -> str | None:
        """Why it was cancelled (`stale`, `revoked`, `cancelled`, `expired`, ...), or None."""
        return self._cancel_reason

    def mark_cancelled(self, reason: str) -> bool:
        """Cancels the attempt, from any thread. The first reason stays.

        Returns:
            True if this call cancelled it; False if it was cancelled before.
        """
        with _cancelling:
            if self._cancel_reason is not None:
                return False
            self._cancel_reason = reason
            return True
