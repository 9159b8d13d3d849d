"""Warns when the event loop of a worker does not run: then nothing is claimed, sent or cancelled."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from contextlib import suppress

from broker.connections.repeated_warning import RepeatedWarning

#: For how long the event loop may not run until that is said, seconds.
HUNG_AFTER_S = 60.0
#: How often in a row the thread looks in vain before; a process that was frozen as a whole is not told of.
_LOOKS = 2


class LoopWatch:
    """Asks the event loop for a sign of life, from the thread that renews the leases.

    Args:
        worker: name of the worker.
        loop: the event loop.
        stack: returns the stack of the loop's thread, in lines.
    """

    def __init__(self, worker: str, loop: asyncio.AbstractEventLoop, stack: Callable[[], str]) -> None:
        self._worker, self._loop, self._stack = worker, loop, stack
        self._asked_at: float | None = None  # by time.monotonic; None: the loop has answered
        self._in_vain = 0  # looks since then
        self._hanging = RepeatedWarning()

    def look(self) -> None:
        """Asks the loop, or warns of one that has not answered for long."""
        now = time.monotonic()
        if self._asked_at is None:
            self._asked_at, self._in_vain = now, 0
            with suppress(RuntimeError):  # the loop is closed
                self._loop.call_soon_threadsafe(self._answered)
            return
        self._in_vain += 1
        if self._in_vain >= _LOOKS and now - self._asked_at >= HUNG_AFTER_S:
            self._hanging.tell(
                "the event loop of worker %s has not run for %.0f s: until it does, nothing is claimed, sent or "
                "cancelled; call what blocks it with `asyncio.to_thread`. It is here:\n%s",
                self._worker,
                now - self._asked_at,
                self._stack(),
            )

    def _answered(self) -> None:
        self._asked_at = None
        self._hanging.over()
