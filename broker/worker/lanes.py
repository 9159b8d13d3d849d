"""The runs of one worker as its claims ask them: a run whose server does not answer takes nothing from the others."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Awaitable, Callable, Iterable
from typing import Any

from broker.connections.repeated_warning import RepeatedWarning
from broker.errors import BrokerError, ClientClosed, ReadOnlyServer, ServerUnavailable
from broker.worker.activity import Activity
from broker.worker.session import Session

_log = logging.getLogger(__name__)

#: A run whose server does not answer is asked again after so many seconds, and tried for so many: its other runs wait.
NOT_ANSWERING_AGAIN_S, NOT_ANSWERING_TRY_S = 5.0, 1.0


class Lanes:
    """The runs of one worker. In a cluster they may be on different servers.

    Args:
        worker: name of the worker.
        sessions: with the runs, the preferred one first.
    """

    def __init__(self, worker: str, sessions: Iterable[Session]) -> None:
        self._worker, self._sessions = worker, list(sessions)
        self._ask_again_at: dict[str, float] = {}  # by run that does not answer, in time.monotonic
        self._told_finished = False
        self._warnings = {session.run: RepeatedWarning() for session in self._sessions}

    def answers(self, session: Session) -> bool:
        """Whether a run's server answered the newest claim."""
        return session.run not in self._ask_again_at

    @property
    def are_finished(self) -> bool:
        """Whether the last claim of each run was answered that the run is finished."""
        return all(session.reason == "finished" for session in self._sessions)

    def ask_again(self) -> None:
        """A loop begins: runs that were finished may be open again."""
        self._told_finished = False
        for session in self._sessions:
            if session.reason == "finished":
                session.reason = ""

    def tell_finished(self, activity: Activity) -> None:
        """Logs once for each loop that the runs are finished."""
        if not self._told_finished:
            self._told_finished = True
            activity.finished([session.run for session in self._sessions])

    async def ask(
        self, n: int, attempts: list[Any], claim_of: Callable[[Session, float], Awaitable[None]]
    ) -> list[Session]:
        """Asks the runs, the preferred one first, until there are n attempts.

        A run whose server does not answer is asked again from time to time, or when no other answers.

        Args:
            n: most attempts wanted.
            attempts: those that there are.
            claim_of: adds what a run gives, tried for so many seconds; infinity: as usual.

        Returns:
            The runs that were passed over although their servers answer: there were n attempts already.

        Raises:
            ServerUnavailable, ReadOnlyServer: no run answers.
            BrokerError: a permanent failure, of any run.
        """
        now, failed = time.monotonic(), list[tuple[Session, BrokerError]]()
        passed_over: list[Session] = []
        answered = waited = False
        for session in sorted(self._sessions, key=lambda session: now < self._ask_again_at.get(session.run, 0.0)):
            was_away, is_asked = not self.answers(session), len(attempts) < n
            if answered and was_away and now < self._ask_again_at[session.run]:
                is_asked = False
            if not is_asked:
                if not was_away:
                    passed_over.append(session)
                continue
            try:
                await claim_of(session, NOT_ANSWERING_TRY_S if waited or was_away else math.inf)
            except (ServerUnavailable, ReadOnlyServer) as error:
                if isinstance(error, ClientClosed):
                    raise
                self._ask_again_at[session.run] = time.monotonic() + NOT_ANSWERING_AGAIN_S
                failed.append((session, error))
                waited = waited or not was_away
            else:
                answered = True
                self._ask_again_at.pop(session.run, None)
                self._warnings[session.run].over()
        if failed and not answered:
            for session, _ in failed:
                self._ask_again_at.pop(session.run, None)  # the next claim tries for as long as this one
            raise failed[0][1]
        for session, error in failed:
            words = "worker %s goes on without the run %s for now: %s"
            self._warnings[session.run].tell(words, self._worker, session.run, error)
        return passed_over
