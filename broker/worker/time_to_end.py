"""The time that a worker has to end, and the one warning of what it leaves to the leases."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable

from broker.connections import END_WITHIN_S

_log = logging.getLogger(__name__)


class TimeToEnd:
    """The calls that end a worker's work: all of them together have a limited time, for the process may be killed soon.

    Args:
        has_joined: whether the worker has a session. Without one it holds nothing.
        clock: seconds, monotonic.
    """

    def __init__(self, has_joined: Callable[[], bool], clock: Callable[[], float] = time.monotonic) -> None:
        self._has_joined, self._clock = has_joined, clock
        self._over_at = -math.inf  # when the newest ending is over
        self._told = False

    def begin(self) -> float:
        """A call begins: with it a new ending does, unless the last one was just now. Returns the seconds left."""
        now = self._clock()
        if now > self._over_at + END_WITHIN_S:
            self._over_at, self._told = now + END_WITHIN_S, False
        return max(0.0, self._over_at - now)

    def failed(self, problem: object) -> None:
        """A call did not succeed, so that attempts may be left to their leases: warned of once for each ending."""
        if not self._told and self._has_joined():
            self._told = True
            _log.warning("the attempts of this worker go to others only when their lease runs out: %s", problem)
