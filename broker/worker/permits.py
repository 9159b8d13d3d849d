"""The places of one `run`: which handlers have them, and which places are lost to handlers that do not end."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass

from broker.connections.forks import Locked
from broker.errors import HandlersLost
from broker.values.attempt import Attempt
from broker.worker.state import WorkerState

_log = logging.getLogger(__name__)

#: How long a handler may go on after its attempt was taken back, before it is lost, seconds.
LOST_AFTER_S = 1.0
#: How often to look for handlers that are lost, seconds.
LOOK_EVERY_S = 0.2


@dataclass(slots=True)
class _Place:
    attempt: Attempt
    session_id: str
    lease_s: float
    taken_back_at: float | None = None  # by the monotonic clock, as far as `look` has seen


class Permits(Locked):
    """Limits how many handlers work at a time. A handler is lost if it goes on after its attempt was taken back.

    The place of a lost handler is free for another attempt. When as many handlers are lost as there are places,
    nothing is claimed, and the worker waits for a lost handler to end. The worker gives up when all of them have
    certainly hung. A handler has certainly hung if its attempt passed the time-out (`attempt_timeout_ms`), or if the
    handler went on for a whole lease after its attempt was taken back.
    Several threads may use one object.

    Args:
        state: the worker.
        concurrency: how many places there are.
        clock: seconds, monotonic.
    """

    def __init__(self, state: WorkerState, concurrency: int, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__()
        self._state, self._concurrency, self._clock = state, concurrency, clock
        self._working: dict[str, _Place] = {}
        self._lost: dict[str, _Place] = {}
        self._told = False  # warns that all places are lost

    @property
    def room(self) -> int:
        """How many attempts may be claimed now."""
        return 0 if len(self._lost) >= self._concurrency else self._concurrency - len(self._working)

    @property
    def is_idle(self) -> bool:
        """Whether no handler works, except the lost ones."""
        return not self._working

    @property
    def attempts(self) -> set[str]:
        """The attempts that handlers work on, lost or not."""
        with self._lock:
            return {*self._working, *self._lost}

    def lost(self, attempt_id: str) -> bool:
        """Whether the handler of an attempt is lost."""
        return attempt_id in self._lost

    def take(self, attempt: Attempt) -> None:
        """Notes that a handler begins."""
        session = self._state.sessions[attempt.run]
        with self._lock:
            self._working[attempt.id] = _Place(attempt, session.id, (session.lease_ms or 0) / 1000)

    def give(self, attempt: Attempt) -> None:
        """Notes that a handler ended; it may be a lost one."""
        with self._lock:
            if self._lost.pop(attempt.id, None) is not None:
                _log.warning("the handler of attempt %s, which was lost, has ended", attempt.id)
            self._told = self._told and len(self._lost) >= self._concurrency
            self._working.pop(attempt.id, None)

    def look(self) -> list[Attempt]:
        """Finds handlers that are lost by now. Returns those whose attempts were taken back since the last look."""
        now = self._clock()
        found: list[Attempt] = []
        with self._lock:
            for attempt_id, place in list(self._working.items()):
                if not place.attempt.cancelled:
                    continue
                if place.taken_back_at is None:
                    place.taken_back_at = now
                    found.append(place.attempt)
                elif now - place.taken_back_at >= LOST_AFTER_S:
                    self._lost[attempt_id] = self._working.pop(attempt_id)
                    _log.warning(
                        "the handler of attempt %s goes on %g s after the attempt was taken back (%s): its place is "
                        "given to another one",
                        attempt_id,
                        LOST_AFTER_S,
                        place.attempt.cancel_reason,
                    )
            if len(self._lost) >= self._concurrency and not self._told:
                self._told = True
                _log.warning("all places (%d) have handlers that do not end: nothing is claimed", self._concurrency)
        return found

    @property
    def are_lost(self) -> bool:
        """Whether all places are lost to handlers that have hung."""
        if len(self._lost) < self._concurrency:
            return False
        with self._lock:
            return sum(self._has_hung(place) for place in self._lost.values()) >= self._concurrency

    def _has_hung(self, place: _Place) -> bool:
        session_id = self._state.sessions[place.attempt.run].id
        if place.attempt.cancel_reason == "expired" and place.session_id == session_id:
            return True  # its session goes on: the attempt took longer than the run allows
        assert place.taken_back_at is not None, "it is lost"
        return self._clock() - place.taken_back_at >= place.lease_s

    def error(self, stack_of: Callable[[Attempt], str]) -> HandlersLost:
        """The error for lost handlers; logs the stack of each.

        Args:
            stack_of: returns the stack of an attempt's handler, in lines.
        """
        lost = [place.attempt for place in list(self._lost.values())]
        names = ", ".join(attempt.id for attempt in lost)
        error = HandlersLost(worker=self._state.name, places=self._concurrency, attempts=names)
        for attempt in lost:
            error.add_note(f"the handler of attempt {attempt.id} is here:\n{stack_of(attempt)}".rstrip())
        _log.error("%s\n%s", error, "\n".join(error.__notes__))
        return error
