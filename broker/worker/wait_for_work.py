"""How a worker waits for work: for a run's wake marker, a retry or a lease that is due, or weights that may be used."""

from __future__ import annotations

import time
from collections.abc import Iterable
from contextlib import suppress

from broker.connections.base import BaseTransport
from broker.errors import ClientClosed
from broker.values.attempt import Attempt
from broker.worker.lanes import NOT_ANSWERING_AGAIN_S
from broker.worker.session import ITEMS_PER_CALL, Session, check_policy
from broker.worker.state import WorkerState

#: Longest wait for a marker before claiming again, seconds.
CLAIM_AGAIN_S = 5.0
#: Reasons of a claim that left work for other workers: this one has not the weights, or has just failed at it.
FOR_OTHERS = frozenset({"weights_stale", "weights_missing", "faulted"})
#: Reason of a claim of a worker that gets nothing for a while, or one attempt at a time.
QUARANTINED = "quarantined"
#: How long a worker waits before it asks again after such a claim, or asks the hook for weights again, seconds.
WEIGHTS_AGAIN_S = 0.2
#: How long a worker waits before it looks again for a run that has vanished, seconds.
RUN_AGAIN_S = 1.0


class WaitForWork:
    """The waits of one worker between its claims.

    A wait that ends by a marker takes it from the server: the next claim asks the marker's run, or passes the marker
    on to another worker.

    Args:
        io: waits.
        state: the worker's: its sessions say what their last claims were told.
    """

    def __init__(self, io: BaseTransport, state: WorkerState) -> None:
        self._io, self._state = io, state
        self._woken_by: str | None = None  # the marker that this worker took and has not acted on yet

    async def pass_on(self, passed_over: Iterable[Session]) -> None:
        """Arms the marker that the last wait took again, if the claim after it passed over the marker's run."""
        woken_by, self._woken_by = self._woken_by, None
        if woken_by is not None and any(session.marker == woken_by for session in passed_over):
            await self._io.command("ZADD", woken_by, 0, "1")

    @staticmethod
    def deadline(timeout_s: float | None) -> float | None:
        """When waiting is over, by time.monotonic; None: never."""
        return None if timeout_s is None else time.monotonic() + timeout_s

    @staticmethod
    def left_s(until: float | None) -> float:
        """The longest that the next wait may take, seconds: a worker claims again at times, marker or not."""
        return CLAIM_AGAIN_S if until is None else min(CLAIM_AGAIN_S, until - time.monotonic())

    async def wait(self, n: int, left: float) -> list[Attempt] | None:
        """Waits for a marker, for the next retry or lease, or for weights that may be used.

        Returns:
            The attempts of a claim in the same round trip, of the current policy; None when nothing was claimed.
        """
        sessions = list(self._state.sessions.values())
        first = sessions[0]
        if not all(session.id for session in sessions):
            left = self._look_again_in(min(left, RUN_AGAIN_S))
        if not any(session.id for session in sessions):
            await self._pause(left)
            return None
        if await self.load_weights():
            return None
        # A finished run is asked again with the next claim; its marker stays armed, for the other workers.
        going_on = [session for session in sessions if session.reason != "finished"]
        # Their own claims armed the markers again: these are for other workers.
        waking = [s for s in going_on if s.reason not in FOR_OTHERS and s.reason != QUARANTINED]
        dues = [due for session in going_on if (due := session.due_in_s) is not None]
        if any(session.reason in FOR_OTHERS for session in going_on):
            dues.append(WEIGHTS_AGAIN_S)
        if not waking:
            await self._pause(max(0.001, min([left, *dues])))
            return None
        answering = [session for session in waking if self._state.lanes.answers(session)]
        if answering and len(answering) < len(waking):
            waking = answering
            dues.append(NOT_ANSWERING_AGAIN_S)
        seconds = max(0.001, min([left, *dues]))
        if len(sessions) > 1 or first.policy is not None or not first.can_claim_waking:
            self._woken_by = await self._io.wait_marker([session.marker for session in waking], seconds)
            return None
        return await first.claim_waking(min(n, ITEMS_PER_CALL), seconds, lambda: self._state.ended)

    async def for_missing_runs(self) -> None:
        """Waits before runs that are not there are looked for again."""
        await self._pause(self._look_again_in(RUN_AGAIN_S))

    def _look_again_in(self, seconds: float) -> float:
        """How long to wait before missing runs are looked for again, seconds: not beyond the patience for one."""
        lefts = (session.missing.left_s for session in self._state.sessions.values())
        return min([seconds, *(left_s for left_s in lefts if left_s is not None)])

    async def _pause(self, seconds: float) -> None:
        """Waits. If the worker is closed meanwhile, the claim ends as if it had waited for work."""
        with suppress(ClientClosed):
            await self._io.pause(seconds)

    async def load_weights(self) -> bool:
        """Asks the hook for the weights of each run whose own are too old. Returns whether it loaded others for any."""
        hook, loaded_any = self._state.on_weights_stale, False
        if hook is None:
            return False
        for session in self._state.sessions.values():
            run_policy = session.run_policy
            if session.reason != "weights_stale" or run_policy is None or time.monotonic() < session.ask_weights_at:
                continue
            named = {"run": session.run} if self._state.hook_takes_run else {}
            loaded = await self._io.ask("on_weights_stale", hook, run_policy, session.blob, **named)
            check_policy("on_weights_stale", loaded)
            if loaded is None or loaded == session.policy:
                session.ask_weights_at = time.monotonic() + WEIGHTS_AGAIN_S
            else:
                session.policy, session.reason, loaded_any = loaded, "", True
        return loaded_any
