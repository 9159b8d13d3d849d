"""Notes Ctrl-C and SIGTERM, so that the supervisor can wait for them and end in order."""

from __future__ import annotations

import signal
import threading
from collections.abc import Generator
from contextlib import contextmanager
from types import FrameType
from typing import Final, Self

_SIGNALS: Final = (signal.SIGINT, signal.SIGTERM)


class Interrupts:
    """While it listens, a first signal is noted and does not end the process; the next ends it at once.

    Attributes:
        number: the signal that arrived; None: no signal so far.
    """

    def __init__(self) -> None:
        self.number: int | None = None
        self._arrived = threading.Event()

    def wait(self, seconds: float) -> bool:
        """Waits for some time; returns True as soon as a signal has arrived."""
        return self._arrived.wait(seconds)

    @contextmanager
    def listening(self) -> Generator[Self]:
        """Listens for signals within a `with` block. For the main thread only."""
        before = {number: signal.signal(number, self._note) for number in _SIGNALS}
        try:
            yield self
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _note(self, number: int, _frame: FrameType | None) -> None:
        self.number = number
        for one in _SIGNALS:  # the children and the server end with this process, however it ends
            signal.signal(one, signal.SIG_DFL)
        self._arrived.set()
