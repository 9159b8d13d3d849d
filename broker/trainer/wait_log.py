"""What a trainer says of a wait for its batch, in the log and at a time-out: who has the batch, or why nobody does."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from broker.connections.base import BaseTransport
from broker.errors import BrokerError, WaitTimeout
from broker.errors.words import count, duration
from broker.protocol.ids import attempt_id, worker_of
from broker.protocol.script_call import Now
from broker.trainer.state import TrainerState

if TYPE_CHECKING:
    from broker.inspection.explanation import Explanation

_log = logging.getLogger(__name__)

#: After how many seconds a wait is told first; the pause before the next time is twice as long, and so on.
FIRST_AFTER_S = 30.0
#: The longest pause, seconds.
LONGEST_DISTANCE_S = 600.0
#: After a shorter wait, in seconds, a time-out does not ask for the reason: the caller polls.
ASK_FROM_S = 0.5


class WaitLog:
    """The log of one wait for a batch.

    Args:
        state: the trainer.
        step: the step whose batch it is. While an earlier batch is being trained, nobody waits for this one.
        n: tasks wanted.
        clock: seconds, monotonic.
    """

    def __init__(self, state: TrainerState, step: int, n: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._state, self._step, self._n, self._clock = state, step, n, clock
        self._since: float | None = None
        self._distance_s = FIRST_AFTER_S
        self._tell_at = 0.0

    async def tell(self, size: int) -> None:
        """Logs what the wait is for, when that is due: INFO while work goes on, WARNING while none does.

        Args:
            size: tasks that the batch has.
        """
        if self._step > self._state.version:  # formed ahead
            return
        now = self._clock()
        if self._since is None:
            self._since, self._tell_at = now, now + self._distance_s
        if now < self._tell_at:
            return
        self._distance_s = min(2 * self._distance_s, LONGEST_DISTANCE_S)
        self._tell_at = now + self._distance_s
        from broker.inspection.explanation import explain  # few trainers wait so long

        state = self._state
        try:
            explanation = await explain(state.io, state.run, state.now)
        except BrokerError as error:  # the wait itself meets the error again
            _log.debug("what the batch of step %d waits for is not known: %s", self._step, error)
            return
        works, sentence = _reason(explanation)
        _log.log(
            logging.INFO if works else logging.WARNING,
            "run %s, step %d: waiting for %d of %s for %s: %s",
            state.run,
            self._step,
            max(1, self._n - size),
            count(self._n, "task"),
            duration(now - self._since),
            sentence,
            extra={"run": state.run, "step": self._step, "missing": self._n - size},
        )


async def timed_out(
    io: BaseTransport, run: str, step: int, seconds: float | None, now: Now = "", **fields: Any
) -> WaitTimeout:
    """The error of a wait whose time is over; it says what the wait was for.

    Args:
        io: reaches the server.
        run: the run.
        step: the step whose batch was waited for.
        seconds: how long the caller has waited.
        now: injected time in milliseconds, for tests.
        fields: more fields of the error.
    """
    what = f"the batch of step {step}"
    if seconds is not None and seconds >= ASK_FROM_S:
        from broker.inspection.explanation import explain

        try:
            fields["reason"] = _reason(await explain(io, run, now))[1].removesuffix(".")
        except BrokerError as error:  # the wait was over all the same
            _log.debug("what the batch of step %d waits for is not known: %s", step, error)
    return WaitTimeout(what=what, seconds=seconds, run=run, **fields)


def _reason(explanation: Explanation) -> tuple[bool, str]:
    """Whether work goes on, and who has held a slot longest, or what the run stands still for."""
    from broker.inspection.situation import situation  # as above
    from broker.inspection.times import compared

    found = situation(explanation)
    if found.word != "working" or not explanation.held:
        return found.word == "working", found.sentence.removeprefix("No: ").removeprefix("Yes: ")
    due = [row for row in explanation.held if attempt_id(row.attempt_id).task in explanation.stats.due]
    oldest = min(due or explanation.held, key=lambda row: row.at_ms)
    held_s, stats = (explanation.now_ms - oldest.at_ms) / 1000, explanation.stats
    slow = compared(held_s, stats.generation_s.get("p50"), stats.timed)
    others = explanation.holding.held - 1
    more = f", and {count(others, 'slot')} more" if others > 0 else ""
    if due:
        more += ", which no later batch could hold"
    how_long = f"{duration(held_s)}, {slow}" if slow else duration(held_s)
    return True, f"{attempt_id(oldest.attempt_id).task} on {worker_of(oldest.session)} for {how_long}{more}"
