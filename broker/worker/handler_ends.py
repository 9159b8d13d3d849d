"""How the threads of handlers wake the thread that hands out attempts."""

from __future__ import annotations

import queue


class HandlerEnds:
    """Says that a handler has ended.

    A `threading.Event` would lose signals. If SIGTERM comes while its wait takes its own lock again, SystemExit becomes
    `RuntimeError: release unlocked lock`. The wait of this queue is one function in C, which no signal breaks halfway.
    """

    def __init__(self) -> None:
        self._ends: queue.SimpleQueue[None] = queue.SimpleQueue()

    def tell(self) -> None:
        """A handler has ended."""
        self._ends.put(None)

    def wait(self, seconds: float) -> None:
        """Waits until a handler has ended since the last `forget` or wait, at most so many seconds."""
        try:
            self._ends.get(timeout=seconds)
        except queue.Empty:
            return
        self.forget()

    def forget(self) -> None:
        """Forgets the handlers that have ended."""
        while not self._ends.empty():  # only one thread takes from it
            self._ends.get_nowait()
