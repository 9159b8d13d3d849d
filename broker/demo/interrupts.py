"""Ctrl-C and SIGTERM as something to wait for, so that the supervisor ends at a point of its own choice."""

from __future__ import annotations

import signal
import threading
from collections.abc import Generator
from contextlib import contextmanager
from types import FrameType
from typing import Final, Self

_SIGNALS: Final = (signal.SIGINT, signal.SIGTERM)


class Interrupts:
    """Where it is told to listen, a first signal is noted instead of ending the process; the next ends it at once.

    Attributes:
        number: the signal that arrived; None so far.
    """

    def __init__(self) -> None:
        self.number: int | None = None
        self._arrived = threading.Event()

    def wait(self, seconds: float) -> bool:
        """Waits; True as soon as a signal has arrived."""
        return self._arrived.wait(seconds)

    @contextmanager
    def listening(self) -> Generator[Self]:
        """Within it signals are noted. Only for the main thread."""
        before = {number: signal.signal(number, self._note) for number in _SIGNALS}
        try:
            yield self
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _note(self, number: int, _frame: FrameType | None) -> None:
        self.number = number
        for one in _SIGNALS:  # the children and the server end with this process, however it does
            signal.signal(one, signal.SIG_DFL)
        self._arrived.set()
