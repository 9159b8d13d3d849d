"""The trainer numbers its calls: which number is next, and which calls have an unknown outcome."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from broker.connections.base import BaseTransport
from broker.errors import BrokerError, NotSendable, OldCall, Rewound, TooBig
from broker.protocol.script_call import ScriptCall
from broker.protocol.trainer import CallId, trainer_call_id

T = TypeVar("T")


class NumberedCalls:
    """Sends the calls of one trainer that change its run, one after the other.

    Args:
        io: sends them.
        token: the trainer's epoch token, its own choice.
    """

    def __init__(self, io: BaseTransport, token: str) -> None:
        self._io, self._turn, self._numbers = io, io.turn(), CallNumbers(token)

    @property
    def token(self) -> str:
        """The epoch token that the calls are made under."""
        return self._numbers.token

    @property
    def last(self) -> int:
        """Number of the last call that the server has answered, 0 before the first."""
        return self._numbers.last

    async def call(self, make: Callable[[CallId], ScriptCall[T]]) -> T:
        """Makes one call; raises its BrokerError.

        Args:
            make: builds the script call when its turn has come.
        """
        return (await self.call_with(make, ()))[0]

    async def call_with(
        self, make: Callable[[CallId], ScriptCall[T]], then: Sequence[ScriptCall[Any]]
    ) -> tuple[T, list[Any]]:
        """Makes one call; script calls without a number are executed after it, in the same round trip.

        Args:
            make: builds the script call when its turn has come.
            then: the script calls without a number.

        Returns:
            The call's value, and the outcomes of the script calls without a number; their BrokerError is not raised.
        """
        return await self._turn.take(lambda: self._send(make, then))

    async def _send(
        self, make: Callable[[CallId], ScriptCall[T]], then: Sequence[ScriptCall[Any]]
    ) -> tuple[T, list[Any]]:
        sent = self._numbers.prepare(make)
        try:
            outcomes = await self._io.execute([*sent, *then])
        except (NotSendable, TooBig):  # the server did not read it; sent again, it would block all later calls
            self._numbers.unsent(sent)
            raise
        return self._numbers.settle(sent, outcomes[: len(sent)]), outcomes[len(sent) :]

    async def take_over(self, call: ScriptCall[T], token: str) -> T:
        """Makes a call that begins a new epoch, in which numbers start again. Its BrokerError changes nothing.

        Args:
            call: what to send.
            token: the token of the new epoch.
        """

        async def begin() -> T:
            begun = await self._io.call(call)
            self._numbers.restart(token)
            return begun

        return await self._turn.take(begin)


class CallNumbers:
    """Numbers the calls of one trainer. Not for concurrent use: one call at a time, from `prepare` to `settle`.

    Args:
        token: the trainer's epoch token, its own choice.
    """

    def __init__(self, token: str) -> None:
        self.token = token
        # The number of the last call that was answered, and the calls after it. One assignment sets both: a signal
        # handler may raise between two assignments, and no number may be used twice.
        self._place: tuple[int, list[ScriptCall[Any]]] = (0, [])
        self._broken: BrokerError | None = None

    @property
    def last(self) -> int:
        """Number of the last call that the server has answered, 0 before the first."""
        return self._place[0]

    def restart(self, token: str) -> None:
        """Begins a new epoch, in which numbers start again."""
        self.token, self._place, self._broken = token, (0, []), None

    def prepare(self, make: Callable[[CallId], ScriptCall[Any]]) -> list[ScriptCall[Any]]:
        """The script calls to send, in order: first those whose outcome is still unknown, if any, then the new one.

        After a rewind no call is made any more: late copies of forgotten calls could fill the gap in the numbers.

        From here on the outcome of the new call is unknown. A call without an answer may have been executed. It is
        sent again with the same number before the next number is used, so that it has its effect once.
        """
        if self._broken is not None:
            raise self._broken
        last, unknown = self._place
        sent = [*unknown, make(trainer_call_id(self.token, last + len(unknown) + 1))]
        self._place = (last, sent)
        return sent

    def unsent(self, sent: list[ScriptCall[Any]]) -> None:
        """Takes back the new call of `prepare`: it cannot be sent, or the server does not take its bytes."""
        self._place = (self._place[0], sent[:-1])

    def settle(self, sent: list[ScriptCall[Any]], outcomes: list[Any]) -> Any:
        """Reads the outcomes of the calls that `prepare` returned. Returns the new call's value.

        Raises:
            BrokerError: the new call was refused.
        """
        last, refusal = self._place[0], None
        for call, outcome in zip(sent, outcomes, strict=True):
            is_new = call is sent[-1]
            refused = isinstance(outcome, BrokerError)
            # A call with an unknown outcome was executed before when later calls followed: the server keeps one answer.
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
