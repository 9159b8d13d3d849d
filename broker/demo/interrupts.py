"""Ctrl-C and SIGTERM as something to wait for, so that the supervisor ends at a point of its own choice."""

from __future__ import annotations

import signal
import threading
from types import FrameType, TracebackType
from typing import Any, Final, Self

_SIGNALS: Final = (signal.SIGINT, signal.SIGTERM)


class Interrupts:
    """While it is entered, a first signal is noted instead of ending the process; the next one ends it at once.

    Does nothing outside the main thread.

    Attributes:
        number: the signal that arrived; None so far.
    """

    def __init__(self) -> None:
        self.number: int | None = None
        self._arrived = threading.Event()
        self._before: dict[int, Any] = {}

    def wait(self, seconds: float) -> bool:
        """Waits; True as soon as a signal has arrived."""
        return self._arrived.wait(seconds)

    def _note(self, number: int, _frame: FrameType | None) -> None:
        self.number = number
        for one in _SIGNALS:  # the children and the server end with this process, however it does
            signal.signal(one, signal.SIG_DFL)
        self._arrived.set()

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            self._before = {number: signal.signal(number, self._note) for number in _SIGNALS}
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
