"""The trainer's numbered channel: which call is next, and which one's outcome is unknown."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from broker.errors import BrokerError, OldCall, Rewound
from broker.protocol.operation import Operation
from broker.protocol.trainer import Gate, trainer_gate


class Channel:
    """Numbers the calls of one trainer. Not for concurrent use: the shell holds a lock around `prepare` ... `settle`.

    Args:
        token: the trainer's epoch token, its own choice.
    """

    def __init__(self, token: str) -> None:
        self.token = token
        # The number of the last call that was answered, and the calls after it. Only ever assigned together: a signal's
        # handler may raise between two assignments, and no number may be used twice.
        self._place: tuple[int, list[Operation[Any]]] = (0, [])
        self._broken: BrokerError | None = None

    @property
    def last(self) -> int:
        """Number of the last call that the server has answered, 0 before the first."""
        return self._place[0]

    def restart(self, token: str) -> None:
        """A new epoch: numbers start again."""
        self.token, self._place, self._broken = token, (0, []), None

    def prepare(self, make: Callable[[Gate], Operation[Any]]) -> list[Operation[Any]]:
        """The operations to send, in order: first those whose outcome is still unknown, if any, then the new one.

        After a rewind no call is made any more: late copies of forgotten calls could fill the gap in the numbers.

        From here on the outcome of the new one is unknown. A call that got no answer may have been executed: it is sent
        again with the same number, so that it has its effect once, before the next number is used.
        """
        if self._broken is not None:
            raise self._broken
        last, unknown = self._place
        sent = [*unknown, make(trainer_gate(self.token, last + len(unknown) + 1))]
        self._place = (last, sent)
        return sent

    def unsent(self, sent: list[Operation[Any]]) -> None:
        """The new call of what prepare returned cannot be sent, and nothing was."""
        self._place = (self._place[0], sent[:-1])

    def settle(self, sent: list[Operation[Any]], outcomes: list[Any]) -> Any:
        """Reads the outcomes of what prepare returned, and answers the new call's value.

        Raises:
            BrokerError: the call was refused.
        """
        last, refusal = self._place[0], None
        for operation, outcome in zip(sent, outcomes, strict=True):
            is_new = operation is sent[-1]
            refused = isinstance(outcome, BrokerError)
            # An unknown call that others followed was executed before: the server keeps the newest answer only.
            if not refused or "used_call" in outcome.fields or (isinstance(outcome, OldCall) and not is_new):
                last += 1
            elif not is_new:
                refusal = outcome
                break
            if isinstance(outcome, Rewound):
                self._broken = outcome
            if is_new and refused:
                refusal = outcome
        self._place = (last, [])
        if refusal is not None:
            raise refusal
        return outcomes[-1]
