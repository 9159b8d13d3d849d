"""Asks the server for a thread that may not wait long, because it holds a lock that others need."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from broker.protocol.admission import Standing

_log = logging.getLogger(__name__)


class Tell(Protocol):
    """Reports for a thread, and returns the answer; None: there is none."""

    def __call__(self, version: int, *, asks: bool, thread: int) -> Standing | None:
        """asks: for one more slot, which is promised to the thread."""
        ...


@dataclass
class _Question:
    version: int
    asks: bool
    is_answered: bool = False
    #: Whether the one who asked waits for it no more.
    is_late: bool = False
    standing: Standing | None = None


class Asker:
    """A thread that asks for others, started with the first question.

    Args:
        tell: asks the server; may wait for it.
        has_promise: whether a slot is promised to a thread.
        on_late: called from the thread when an answer came that nobody waited for any more.
    """

    def __init__(self, tell: Tell, has_promise: Callable[[int], bool], on_late: Callable[[], None]) -> None:
        self._tell, self._has_promise, self._on_late = tell, has_promise, on_late
        self._changed = threading.Condition()
        self._questions: dict[int, _Question] = {}  # by who asks
        self._stopped = False
        self._thread = threading.Thread(target=self._work, name="broker-areal-asker", daemon=True)

    def ask(self, version: int, *, asks: bool, within_s: float) -> Standing | None:
        """The answer, if it comes within so many seconds; None: not yet, or the server does not answer.

        While the answer to this thread's last question is outstanding nothing is asked, and nothing waits.
        """
        me = threading.get_ident()
        with self._changed:
            before = self._questions.get(me)
            if self._stopped or (before is not None and not before.is_answered):
                return None
            if before is not None:
                del self._questions[me]
                # A late promise is used. A late refusal says nothing: what freed a slot since then rang for nothing.
                if asks and before.standing is not None and before.standing.granted and self._has_promise(me):
                    return before.standing
            question = self._questions[me] = _Question(version, asks)
            if not self._thread.is_alive():
                self._thread.start()
            self._changed.notify_all()
            if self._changed.wait_for(lambda: question.is_answered, within_s):
                del self._questions[me]
            else:
                question.is_late = True
            return question.standing

    def stop(self) -> None:
        """Tells the thread to stop; who waits for an answer gets none."""
        with self._changed:
            self._stopped = True
            for question in self._questions.values():
                question.is_answered = True
            self._changed.notify_all()

    def join(self) -> None:
        """Waits for the thread's end."""
        if self._thread.is_alive():
            self._thread.join(timeout=5.0)

    def _work(self) -> None:
        while (asked := self._next()) is not None:
            thread, question = asked
            standing: Standing | None = None
            try:
                standing = self._tell(question.version, asks=question.asks, thread=thread)
            except Exception:  # noqa: BLE001 - a thread that is gone would answer nobody any more
                _log.exception("asking for capacity failed and goes on")
            with self._changed:
                question.standing, question.is_answered = standing, True
                self._changed.notify_all()
            if question.is_late:
                self._on_late()

    def _next(self) -> tuple[int, _Question] | None:
        with self._changed:
            while not self._stopped:
                for thread, question in self._questions.items():
                    if not question.is_answered:
                        return thread, question
                self._changed.wait()
            return None
