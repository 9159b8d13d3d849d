"""The log of a worker's work at a human rate: its start, its first claim, and what it did in each minute."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence

from broker.connections.forks import Locked
from broker.errors import BrokerError
from broker.errors.words import count, duration
from broker.values.attempt import Attempt
from broker.worker.exception_parts import is_a
from broker.worker.signals import told_to_end

_log = logging.getLogger(__name__)

#: How often the log says what was done, and shows the traceback of a kind of failure, seconds.
TELL_EVERY_S = 60.0
#: Kinds of failures that are remembered; when there are more, all of them are forgotten.
_MOST_KINDS = 100


class Activity(Locked):
    """What one worker does. Threads may share it.

    Args:
        worker: name of the worker.
        clock: seconds, monotonic.
    """

    def __init__(self, worker: str, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__()
        self._worker, self._clock = worker, clock
        self._since: float | None = None  # when the first attempt was claimed, and later when the last line was logged
        self._done = self._failed = 0  # since then
        self._quarantined: set[str] = set()  # the runs that gave it no work for that reason
        self._quarantine_told: dict[str, float] = {}  # when that may be said again
        self._shown: dict[str, float] = {}  # kinds of failures, and when the traceback of each is due again

    def started(self, run: str) -> None:
        """A session with a run has begun."""
        _log.info("worker %s serves run %s", self._worker, run, extra=self._of(run))

    def finished(self, runs: Sequence[str]) -> None:
        """Its runs are finished: a loop ends. A worker that has had no work may have been started by mistake."""
        level = logging.WARNING if self._since is None else logging.INFO
        are = "run %s is" if len(runs) == 1 else "the runs %s are"
        _log.log(
            level, f"worker %s has nothing more to do: {are} finished", self._worker, ", ".join(runs), extra=self._of()
        )

    def claimed(self, run: str, attempts: int) -> None:
        """A claim was answered."""
        with self._lock:
            is_first = self._since is None and attempts > 0
            if is_first:
                self._since = self._clock()
        if is_first:
            told = count(attempts, "attempt")
            _log.info("worker %s has its first work: %s of run %s", self._worker, told, run, extra=self._of(run))
        self.look()

    def quarantined(self, run: str) -> None:
        """A claim was answered `quarantined`. Warns once, until a result is accepted, and once in a minute at most."""
        now = self._clock()
        with self._lock:
            is_told = run in self._quarantined or now < self._quarantine_told.get(run, now)
            self._quarantined.add(run)
            if not is_told:
                self._quarantine_told[run] = now + TELL_EVERY_S
        if not is_told:
            _log.warning(
                "worker %s is quarantined in run %s: all its last attempts failed, while those of others succeeded. "
                "It waits; `broker explain %s` says for how long, and `broker readmit %s %s` ends that",
                *(self._worker, run, run, run, self._worker),
                extra=self._of(run),
            )

    def accepted(self, run: str) -> None:
        """A result of the run was accepted."""
        if run not in self._quarantined:
            return
        with self._lock:
            self._quarantined.discard(run)
        _log.info(
            "worker %s has a result of run %s accepted, and gets as much work as before",
            self._worker,
            run,
            extra=self._of(run),
        )

    def done(self, results: int) -> None:
        """Results were accepted, or verdicts recorded."""
        with self._lock:
            self._done += results
        self.look()

    def failed(self) -> None:
        """A failure was reported."""
        with self._lock:
            self._failed += 1
        self.look()

    def look(self) -> None:
        """Logs what was done, when a minute is over."""
        now, since = self._clock(), self._since
        if since is None or now - since < TELL_EVERY_S:  # nearly always, and without the lock
            return
        with self._lock:
            if self._since != since:  # another thread logs this minute
                return
            seconds = now - since
            done, failed = self._done, self._failed
            self._since, self._done, self._failed = now, 0, 0
        _log.info(
            "worker %s: %d done, %d failed in %s, %.1f done a minute",
            self._worker,
            done,
            failed,
            duration(seconds),
            done * 60 / seconds,
            extra={**self._of(), "done": done, "failed": failed, "seconds": round(seconds, 3)},
        )

    def tell_failure(self, attempt: Attempt, error: BaseException, reason: str) -> None:
        """Logs that an attempt failed, in one line; with the traceback once per kind of error and minute.

        Args:
            attempt: what was worked on.
            error: what the handler raised, or why its result cannot be sent. A BrokerError says all in its sentence.
            reason: the same in words.
        """
        said = reason.replace("\n", "\\n")
        try:
            trace = None if is_a(error, BrokerError) or not self._shows(type(error)) else error
            of = {**self._of(attempt.run), "task": attempt.task, "attempt": attempt.id}
            _log.warning("attempt %s failed: %s", attempt.id, said, exc_info=trace, extra=of)
        except BaseException as problem:  # the exception's class, and what shows tracebacks, may raise anything
            if told_to_end(problem):
                raise
            _log.warning("attempt %s failed: %s (its traceback cannot be shown)", attempt.id, said)

    def _of(self, run: str = "") -> dict[str, object]:
        """The fields of a log line."""
        return {"worker": self._worker, "run": run} if run else {"worker": self._worker}

    def _shows(self, kind: type[BaseException]) -> bool:
        now, name = self._clock(), f"{kind.__module__}.{kind.__qualname__}"
        with self._lock:
            if now < self._shown.get(name, now):
                return False
            if len(self._shown) >= _MOST_KINDS:
                self._shown.clear()
            self._shown[name] = now + TELL_EVERY_S
        return True
