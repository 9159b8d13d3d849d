"""Carries out flows over an asyncio transport."""

from __future__ import annotations

import asyncio
import inspect
from typing import Any, TypeVar

from broker.connections import AsyncTransport
from broker.errors import BrokerError, NotSendable
from broker.protocol.flow import (
    Ask,
    Blocking,
    Call,
    Command,
    Fetch,
    Flow,
    GatedCall,
    Pause,
    Step,
    TakeOver,
    WaitAndCall,
    WaitMarker,
)
from broker.trainer.numbered_calls import Channel
from broker.worker.signals import shorten

T = TypeVar("T")


class Driver:
    """Does the I/O that flows ask for.

    Args:
        transport: where to.
        channel: the trainer's numbered channel, None for others.
    """

    def __init__(self, transport: AsyncTransport, channel: Channel | None = None) -> None:
        self.transport = transport
        self.closing = asyncio.Event()
        self._channel = channel
        self._turn = asyncio.Lock()

    async def run(self, flow: Flow[T]) -> T:
        """Runs a flow to its end; errors of the steps (cancellation included) are raised into it.

        Raises:
            BadArgument: in a forked child.
        """
        self.transport.refuse_forked()
        try:
            step = next(flow)
            while True:
                try:
                    if type(step) is Call:  # most are
                        value: Any = await self.transport.execute(step.operations)
                    else:
                        value = await self._do(step)
                except BaseException as error:  # noqa: BLE001 - raised into the flow, not swallowed
                    step = flow.throw(error)
                else:
                    step = flow.send(value)
        except StopIteration as end:
            return end.value
        except (asyncio.CancelledError, KeyboardInterrupt) as error:
            shorten(error)
            raise

    async def _do(self, step: Step) -> Any:
        match step:
            case Call(operations):
                return await self.transport.execute(operations)
            case GatedCall():
                return await self._gated(step)
            case TakeOver():
                return await self._take_over(step)
            case Fetch(keys):
                return await self.transport.fetch(keys)
            case Command(args):
                return await self.transport.command(*args)
            case Blocking(call):
                return await asyncio.to_thread(call)
            case WaitMarker(keys, seconds):
                return await self.transport.wait_marker(keys, seconds)
            case WaitAndCall(keys, seconds, operations):
                return await self.transport.wait_and_execute(keys, seconds, operations)
            case Pause(seconds):
                try:
                    return await asyncio.wait_for(self.closing.wait(), seconds)
                except TimeoutError:
                    return False
            case Ask(_, hook, given, named):
                answer = hook(*given, **named)
                return await answer if inspect.isawaitable(answer) else answer

    async def _take_over(self, step: TakeOver) -> Any:
        assert self._channel is not None
        async with self._turn:
            outcome = (await self.transport.execute([step.operation]))[0]
            if isinstance(outcome, BrokerError):
                raise outcome
            self._channel.restart(step.token)
            return outcome

    async def _gated(self, step: GatedCall) -> Any:
        assert self._channel is not None
        async with self._turn:
            sent = self._channel.prepare(step.make)
            try:
                outcomes = await self.transport.execute([*sent, *step.then])
            except NotSendable:  # as in the other driver
                self._channel.unsent(sent)
                raise
            value = self._channel.settle(sent, outcomes[: len(sent)])
            return [value, *outcomes[len(sent) :]] if step.then else value
