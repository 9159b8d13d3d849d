"""A warning about a condition that lasts: logged at once, then at growing intervals, to keep the log readable."""

from __future__ import annotations

import logging
import time

from broker.connections.forks import Locked

_log = logging.getLogger(__name__)

#: The interval before the second warning, seconds; each later one is twice as long.
FIRST_DISTANCE_S = 10.0
#: The longest interval, seconds.
LONGEST_DISTANCE_S = 600.0


class RepeatedWarning(Locked):
    """One condition. Threads may share it."""

    def __init__(self) -> None:
        super().__init__()
        self._due_at = 0.0
        self._distance_s = 0.0  # 0: the condition does not hold now

    def tell(self, message: str, *args: object) -> bool:
        """The condition holds: logs a warning when one is due. Returns whether it did."""
        now = time.monotonic()
        with self._lock:
            if self._distance_s and now < self._due_at:
                return False
            self._distance_s = min(2 * self._distance_s or FIRST_DISTANCE_S, LONGEST_DISTANCE_S)
            self._due_at = now + self._distance_s
        _log.warning(message, *args)
        return True

    def over(self) -> None:
        """The condition holds no more: the next time is logged at once."""
        self._distance_s = 0.0
