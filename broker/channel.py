"""The trainer's numbered channel: which call is next, and which one's outcome is unknown."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from broker.errors import BrokerError, OldCall, Rewound
from broker.operation import Operation
from broker.operations.trainer import Gate, trainer_gate


class Channel:
    """Numbers the calls of one trainer. Not for concurrent use: the shell holds a lock around `prepare` ... `settle`.

    Args:
        token: the trainer's epoch token, its own choice.
    """

    def __init__(self, token: str) -> None:
        self.token = token
        self._last = 0
        self._unknown: list[Operation[Any]] = []
        self._broken: BrokerError | None = None

    @property
    def last(self) -> int:
        """Number of the last call that the server has answered, 0 before the first."""
        return self._last

    def restart(self, token: str) -> None:
        """A new epoch: numbers start again."""
        self.token, self._last, self._unknown, self._broken = token, 0, [], None

    def prepare(self, make: Callable[[Gate], Operation[Any]]) -> list[Operation[Any]]:
        """The operations to send, in order: first those whose outcome is still unknown, if any, then the new one.

        After a rewind no call is made any more: late copies of forgotten calls could fill the gap in the numbers.

        A call that timed out may have been executed. It is sent again with the same number, so that it has its effect
        once, before the next number is used.
        """
        if self._broken is not None:
            raise self._broken
        return [*self._unknown, make(trainer_gate(self.token, self._last + len(self._unknown) + 1))]

    def settle(self, sent: list[Operation[Any]], outcomes: list[Any]) -> Any:
        """Reads the outcomes of what prepare returned, and answers the new call's value.

        Raises:
            BrokerError: the call was refused.
        """
        self._unknown = []
        for operation, outcome in zip(sent, outcomes, strict=True):
            last = operation is sent[-1]
            refused = isinstance(outcome, BrokerError)
            # An unknown call that others followed was executed before: the server keeps the newest answer only.
            if not refused or "used_call" in outcome.fields or (isinstance(outcome, OldCall) and not last):
                self._last += 1
            elif not last:
                raise outcome
            if isinstance(outcome, Rewound):
                self._broken = outcome
            if last and refused:
                raise outcome
        return outcomes[-1]

    def lost(self, sent: list[Operation[Any]]) -> None:
        """No answer came: whether the operations took effect is unknown."""
        self._unknown = sent
