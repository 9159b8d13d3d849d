"""SIGTERM as an exception, so that held work is given back when a worker is told to stop."""

from __future__ import annotations

import signal
import threading
from types import FrameType


class TerminationAsExit:
    """While installed, SIGTERM raises SystemExit(143) in the main thread. Leaves a handler of the user's alone."""

    def __init__(self) -> None:
        self._installed = False
        self._code = 0  # that SIGTERM asked to end with
        self._held_off = self._came_meanwhile = False

    def install(self) -> None:
        """Only in the main thread, and only over the default handler."""
        if threading.current_thread() is threading.main_thread() and signal.getsignal(signal.SIGTERM) is signal.SIG_DFL:
            signal.signal(signal.SIGTERM, self._exit)
            self._installed = True

    def remove(self) -> None:
        """Puts the default handler back; raises SystemExit where SIGTERM was held off."""
        if self._installed and threading.current_thread() is threading.main_thread():
            if signal.getsignal(signal.SIGTERM) == self._exit:
                signal.signal(signal.SIGTERM, signal.SIG_DFL)
            self._installed = False
            if self._came_meanwhile:
                self.insist()

    def hold_off(self) -> None:
        """Until `remove` SIGTERM raises nothing: what it would break off is what it asks for."""
        self._held_off = True

    def insist(self) -> None:
        """Raises once more what SIGTERM raised where it was lost: a destructor, the import of a module in C."""
        if self._code:
            raise SystemExit(self._code)

    def _exit(self, number: int, _frame: FrameType | None) -> None:
        self._code = 128 + number
        self._came_meanwhile = self._held_off
        if not self._held_off:
            self.insist()
