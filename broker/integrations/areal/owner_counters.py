"""The counts of one process: without I/O, and with a lock that is held for a few instructions."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from broker.connections.forks import Locked
from broker.protocol.admission import Counted, OwnerReport, Recovery

#: How long a slot stays promised to a thread that asked and started nothing, seconds. Between asking and starting a
#: dispatcher only builds its task.
PROMISE_S = 1.0


class OwnerCounters(Locked):
    """The numbers of one owner.

    The numbers are absolute: a report replaces all earlier ones. So reports that could not be sent need no queue, and a
    report that was sent twice counts once.

    Args:
        clock_s: a monotonic clock in seconds.
    """

    def __init__(self, clock_s: Callable[[], float] = time.monotonic) -> None:
        super().__init__()
        self._clock_s = clock_s
        self._running = self._enqueued = self._accepted = self._rejected = 0
        self._recovery = Recovery()
        self._promises: dict[int, float] = {}  # thread -> when its promise lapses
        self._number = 0
        self._changes = self._reported = 0
        self._held_reported = 0
        self._counted = Counted()

    def enqueued(self) -> None:
        """Counts a rollout that waits."""
        with self._lock:
            self._enqueued += 1
            self._changes += 1

    def submitted(self) -> None:
        """Counts a waiting rollout that starts. It uses up this thread's promise, or else the oldest one."""
        with self._lock:
            self._enqueued -= 1
            self._running += 1
            self._changes += 1
            thread = threading.get_ident()
            if thread not in self._promises and self._promises:
                thread = min(self._promises, key=self._promises.__getitem__)
            self._promises.pop(thread, None)

    def accepted(self) -> None:
        """Counts a running rollout that ended and will be trained on."""
        with self._lock:
            self._running -= 1
            self._accepted += 1
            self._changes += 1

    def rejected(self) -> None:
        """Counts a running rollout that ended and will not be trained on."""
        with self._lock:
            self._running -= 1
            self._rejected += 1
            self._changes += 1

    def recovered(self, version: int) -> None:
        """Announces that training goes on from a version."""
        with self._lock:
            self._recovery = Recovery(self._recovery.number + 1, version, self._accepted)
            self._changes += 1

    def alone(self, batch: int) -> tuple[int, int, int, int]:
        """Accepted, enqueued, rejected, running, as AReaL's own manager would count them with this batch size."""
        with self._lock:
            since = self._accepted - self._recovery.accepted_then
            return self._recovery.version * batch + since, self._enqueued, self._rejected, self._running

    @property
    def waits(self) -> bool:
        """Whether rollouts wait in this process."""
        with self._lock:
            return self._enqueued > 0

    @property
    def unreported(self) -> int:
        """How many changes are in no answered report."""
        with self._lock:
            return self._changes - self._reported

    @property
    def to_tell(self) -> bool:
        """Whether there are changes, or lapsed promises, that the server does not know."""
        with self._lock:
            return self._changes > self._reported or self._held() < self._held_reported

    @property
    def counted(self) -> Counted:
        """The counts in the last answered report."""
        with self._lock:
            return self._counted

    def lapses_in_s(self) -> float | None:
        """When the next promise lapses, seconds from now; None: there is no promise."""
        with self._lock:
            return max(0.0, min(self._promises.values()) - self._clock_s()) if self._promises else None

    def has_promise(self, thread: int) -> bool:
        """Whether a slot is promised to a thread."""
        with self._lock:
            self._held()
            return thread in self._promises

    def report(self, version: int, *, asks: bool, thread: int) -> tuple[OwnerReport, int]:
        """The next report, and a mark to `settle` it with.

        Args:
            version: the provider's; -1: unknown.
            asks: whether a slot is wanted.
            thread: who wants it. A promise that it has already is asked for again, not doubled.
        """
        with self._lock:
            if asks:
                self._promises.pop(thread, None)
            self._number += 1
            made = OwnerReport(
                self._number, self._running, self._enqueued, self._accepted, self._rejected, self._held(), asks,
                version, self._recovery
            )  # fmt: skip
            return made, self._changes

    def settle(self, report: OwnerReport, mark: int, *, granted: bool, thread: int) -> None:
        """Notes that a report was answered; granted: one more slot is promised to the thread."""
        with self._lock:
            self._reported = mark
            self._counted = Counted(report.accepted, report.rejected, report.recovery.number)
            self._held_reported = report.held + granted
            if granted:
                self._promises[thread] = self._clock_s() + PROMISE_S

    def numbers(self) -> tuple[int, int, int, int]:
        """Accepted, enqueued, rejected, running: of this process alone."""
        with self._lock:
            return self._accepted, self._enqueued, self._rejected, self._running

    def renamed(self) -> None:
        """Begins the reports anew under a new owner id."""
        with self._lock:
            self._number = 0
            self._changes += 1

    def _held(self) -> int:
        now = self._clock_s()
        for thread in [thread for thread, until in self._promises.items() if until <= now]:
            del self._promises[thread]
        return len(self._promises)
