"""A warning about something that lasts: told at once, then at growing distances, so that a log stays readable."""

from __future__ import annotations

import logging
import threading
import time

_log = logging.getLogger("broker")

#: Until it is told a second time, seconds; then twice as long each time.
FIRST_DISTANCE_S = 10.0
#: The most between two times, seconds.
LONGEST_DISTANCE_S = 600.0


class RepeatedWarning:
    """One such thing. Threads may share it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._due_at = 0.0
        self._distance_s = 0.0  # 0: it does not last now

    def tell(self, message: str, *args: object) -> None:
        """It is so, again or still: logs a warning when one is due."""
        now = time.monotonic()
        with self._lock:
            if self._distance_s and now < self._due_at:
                return
            self._distance_s = min(2 * self._distance_s or FIRST_DISTANCE_S, LONGEST_DISTANCE_S)
            self._due_at = now + self._distance_s
        _log.warning(message, *args)

    def over(self) -> None:
        """It is so no more: the next time is told at once."""
        self._distance_s = 0.0
