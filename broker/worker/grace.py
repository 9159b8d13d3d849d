"""The time that a worker has after SIGTERM to finish what it holds."""

from __future__ import annotations

import logging
import signal
import threading
from collections.abc import Callable
from queue import Empty, SimpleQueue

from broker.errors import BadArgument
from broker.values.arguments import seconds_of

_log = logging.getLogger(__name__)

#: The longest time, seconds.
_MOST_S = 86_400.0


def grace_of(given: float) -> float:
    """Checks the argument `grace_s`."""
    seconds = seconds_of("grace_s", given)
    if seconds is None or not 0 <= seconds <= _MOST_S:
        raise BadArgument(argument="grace_s", given=given, expected="0 to 86400 seconds")
    return seconds


class Grace:
    """The grace of a synchronous worker. When it is over, its thread sends SIGTERM to the main thread.

    Args:
        worker: name of the worker.
        seconds: how long it is; 0: there is none.
        begins: called by the signal handler: makes the worker claim nothing more. Returns False where the worker holds
            nothing, so that it may end at once.

    Attributes:
        has_begun: whether a SIGTERM began it.
        has_signalled: whether the newest SIGTERM came because the grace is over. The signal handler resets it.
    """

    def __init__(self, worker: str, seconds: float, begins: Callable[[], bool]) -> None:
        self._worker, self._seconds, self._begins = worker, seconds, begins
        self.has_begun = self.has_signalled = False
        # A signal handler may interrupt this thread anywhere. To put into this queue needs no lock, unlike an Event.
        self._told: SimpleQueue[bool] = SimpleQueue()
        self._thread: threading.Thread | None = None

    def watch(self) -> None:
        """Starts the thread: a signal handler may start none."""
        if self._seconds > 0:
            self._thread = threading.Thread(target=self._run, name="broker-grace", daemon=True)
            self._thread.start()

    def begin(self) -> bool:
        """Begins the grace, from the signal handler. Returns False where the worker is to end at once."""
        if self._thread is None or self.has_begun or not self._begins():
            return False
        self.has_begun = True
        self._told.put(True)
        return True

    def end(self) -> None:
        """Ends the thread: from now on it sends no signal."""
        thread, self._thread = self._thread, None
        if thread is not None:
            self._told.put(False)
            thread.join()  # after a fork it is known to have ended

    def _run(self) -> None:
        if not self._told.get():
            return
        tell_begun(self._worker, self._seconds)
        try:
            self._told.get(timeout=self._seconds)
        except Empty:
            _log.warning("what worker %s could not finish in %g s (grace_s) is given back", self._worker, self._seconds)
            self.has_signalled = True
            signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGTERM)


def tell_begun(worker: str, seconds: float) -> None:
    """Logs that the worker was told to end."""
    _log.info("worker %s was told to end: it finishes what it holds, for up to %g s", worker, seconds)
