"""A run that a worker looks for in vain: how long the worker waits for the run, and what the log says meanwhile."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable

from broker.errors import NoRun

_log = logging.getLogger(__name__)

#: How often the log says that a worker waits for a run, seconds.
TELL_EVERY_S = 60.0


class MissingRun:
    """The wait for one run.

    Args:
        worker: name of the worker.
        patience_s: how long the run may be missing, seconds; None or infinite: for ever.
        clock: seconds, monotonic.
    """

    def __init__(self, worker: str, patience_s: float | None, clock: Callable[[], float] = time.monotonic) -> None:
        self._worker, self._clock = worker, clock
        self._patience_s = None if patience_s == math.inf else patience_s
        self._was_there = False
        self._since: float | None = None  # when the run was first missed
        self._tell_at = 0.0
        self._told_of_end = False

    def missed(self, error: NoRun, *, has_others: bool = False) -> None:
        """The run is not there: says so once a minute, and once more when the patience is over.

        Args:
            error: says that it is not there.
            has_others: whether the worker has another run that is there, or may still come. If it has none, the error
                is raised when the patience is over.
        """
        now, fields = self._clock(), {"worker": self._worker, "run": error.fields.get("run", "")}
        if self._since is None:
            self._since = self._tell_at = now
            self._told_of_end = False
        waited_s = now - self._since
        if self.is_over:
            if not has_others:
                raise error
            if not self._told_of_end:
                self._told_of_end = True
                _log.warning(
                    "worker %s goes on with its other runs, and serves this one if it comes after all: %s",
                    self._worker,
                    error,
                    extra=fields,
                )
            return
        if now < self._tell_at:
            return
        self._tell_at = now + TELL_EVERY_S
        until = "to come back" if self._was_there else "to be created"
        left = "" if self._patience_s is None else f", for {self._patience_s - waited_s:.0f} s at most"
        _log.warning("worker %s is waiting for the run %s%s: %s", self._worker, until, left, error, extra=fields)

    def found(self) -> None:
        """The run is there: the next time is a new wait."""
        self._since, self._was_there = None, True

    @property
    def is_over(self) -> bool:
        """Whether the run is missed, and the patience is over."""
        since, patience_s = self._since, self._patience_s
        return since is not None and patience_s is not None and self._clock() - since >= patience_s

    @property
    def left_s(self) -> float | None:
        """Seconds until the patience is over; None: the run is not missed, it is over, or the worker waits for ever."""
        if self._since is None or self._patience_s is None or self.is_over:
            return None
        return max(0.0, self._since + self._patience_s - self._clock())
