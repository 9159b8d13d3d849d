"""The published weights that a worker has loaded, and the hook that loads newer ones before it works on."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from broker.connections.base import BaseTransport
from broker.connections.repeated_warning import RepeatedWarning
from broker.errors import WeightsUnavailable
from broker.values.attempt import Attempt
from broker.values.hooks import takes
from broker.values.policy import Policy
from broker.weights.fetching import Fetched
from broker.weights.reference import Reference
from broker.worker.session import Session

#: How long a worker waits before it tries again to get weights, seconds: at first, and at most.
_AGAIN_S, _AGAIN_MOST_S = 0.2, 5.0


class LoadedWeights:
    """The weights of each run of one worker.

    Args:
        io: calls the hook.
        hook: the user's.
        cache: where this host keeps weights; None: as `broker.weights.fetched`.
        sessions: with the runs.
        stopping: asked at times; True: the worker needs no weights any more.
    """

    def __init__(
        self,
        io: BaseTransport,
        hook: Callable[..., Any],
        cache: str | os.PathLike[str] | None,
        sessions: Iterable[Session],
        stopping: Callable[[], bool],
    ) -> None:
        self._io, self._hook, self._cache, self._stopping = io, hook, cache, stopping
        self._takes_run = takes(hook, "run")
        self._blobs: dict[str, bytes | None] = {}  # by run: the newest blob whose attempts may be worked on
        self._again: dict[str, tuple[float, float]] = {}  # by run: when to try again, and how long that wait is
        self._warnings = {session.run: RepeatedWarning() for session in sessions}

    def are_for(self, session: Session, attempt: Attempt) -> bool:
        """Whether an attempt may be worked on: its weights are loaded, or it brings its own, as evaluations do."""
        return attempt.judges or attempt.blob == self._blobs.get(session.run)

    def must_wait(self, session: Session) -> bool:
        """Whether weights of a run could not be had, and it is too early to try again."""
        return time.monotonic() < self._again.get(session.run, (0.0, 0.0))[0]

    async def load(self, session: Session, fresh: Sequence[Attempt]) -> None:
        """Has the hook load the weights that the run's newest blob names, if it names others than are loaded.

        If they cannot be had, the run has to wait. Of a finished run nothing is loaded: its trainer may have ended.

        Args:
            session: with the run.
            fresh: attempts that nobody works on yet.
        """
        blob, run, policy = session.blob, session.run, session.blob_policy
        if blob == self._blobs.get(run):
            session.keeps_weights()
            return
        if self.must_wait(session) or session.reason == "finished":
            return
        reference = Reference.decode(blob)
        if reference is None and session.loaded is not None:
            version = policy.version if policy is not None else 0
            self._is_missing(session, f"nobody published those of version {version}, and others are loaded")
            return
        if reference is not None:
            try:
                await self._load(reference, session, policy, fresh)
            except WeightsUnavailable as error:
                self._is_missing(session, str(error))
                return
        self._blobs[run] = blob
        self._again.pop(run, None)
        self._warnings[run].over()

    async def _load(
        self, reference: Reference, session: Session, policy: Policy | None, fresh: Sequence[Attempt]
    ) -> None:
        named = {"run": session.run} if self._takes_run else {}
        with await self._io.blocking(lambda: Fetched(reference, self._cache, self._stopping)) as there:
            if policy is not None:
                await session.loads(policy, fresh)
            try:
                await self._io.ask("load_weights", self._hook, reference.version, there.path, **named)
            except Exception as error:
                if there.are_there:
                    raise
                raise WeightsUnavailable(name=reference.name, problem="they were removed while read") from error

    def _is_missing(self, session: Session, problem: str) -> None:
        run = session.run
        wait_s = min(_AGAIN_MOST_S, 2 * self._again[run][1] if run in self._again else _AGAIN_S)
        self._again[run] = (time.monotonic() + wait_s, wait_s)
        session.reason = "weights_missing"
        self._warnings[run].tell("run %s waits for its weights: %s", run, problem)
