"""Carries out flows over a synchronous transport."""

from __future__ import annotations

import os
import threading
from collections.abc import Generator
from contextlib import contextmanager
from typing import Any, TypeVar

from broker.channel import Channel, Turn
from broker.connections import Transport
from broker.errors import BrokerError, NotSendable
from broker.flow import (
    Blocking,
    Call,
    Command,
    Fetch,
    Flow,
    GatedCall,
    Judge,
    Pause,
    Step,
    TakeOver,
    WaitAndCall,
    WaitMarker,
)
from broker.operation import Operation

T = TypeVar("T")


class Driver:
    """Does the I/O that flows ask for.

    Args:
        transport: where to.
        channel: the trainer's numbered channel, None for others.
    """

    def __init__(self, transport: Transport, channel: Channel | None = None) -> None:
        self.transport = transport
        self.closing = threading.Event()
        self._channel = channel
        self._let_go()

    def _let_go(self) -> None:
        """Nobody has the turn, as at first; so it is after a fork, where those who had it are not there."""
        self._turn = Turn()
        self._lock = threading.Lock()
        self._counting = threading.Lock()
        self._pid = os.getpid()
        #: The thread that has the turn and waits for a marker.
        self._waiter: int | None = None

    def run(self, flow: Flow[T]) -> T:
        """Runs a flow to its end; errors of the steps are raised into it."""
        try:
            step = next(flow)
            while True:
                try:
                    if type(step) is Call:  # most are
                        value: Any = self.transport.execute(step.operations)
                    else:
                        value = self._do(step)
                except BaseException as error:  # noqa: BLE001 - raised into the flow, not swallowed
                    step = flow.throw(error)
                else:
                    step = flow.send(value)
        except StopIteration as end:
            return end.value

    def _do(self, step: Step) -> Any:
        match step:
            case Call(operations):
                return self.transport.execute(operations)
            case GatedCall():
                return self._gated(step)
            case TakeOver():
                return self._take_over(step)
            case Fetch(keys):
                return self.transport.command("MGET", *keys)
            case Command(args):
                return self.transport.command(*args)
            case Blocking(call):
                return call()
            case WaitMarker(keys, seconds):
                return self.transport.wait_marker(keys, seconds)
            case WaitAndCall(keys, seconds, operations):
                return self.transport.wait_and_execute(keys, seconds, operations)
            case Pause(seconds):
                return self.closing.wait(seconds)
            case Judge(accept, rollout):
                return accept(rollout)

    def _take_over(self, step: TakeOver) -> Any:
        assert self._channel is not None
        with self._turn_taken():
            outcome = (self.transport.execute([step.operation]))[0]
            if isinstance(outcome, BrokerError):
                raise outcome
            self._channel.restart(step.token)
            # Who waits apart for a batch of the epoch before is to hear of it.
            self.transport.interrupt()
            return outcome

    def _gated(self, step: GatedCall) -> Any:
        assert self._channel is not None
        waits = bool(step.marker)
        if waits and (self._turn.waits_apart or self._waiter == threading.get_ident()):
            self.transport.wait_marker((step.marker,), step.seconds)
            waits = False
        with self._turn_taken():
            sent = self._channel.prepare(step.make)
            operations = [*sent, *step.then]
            outcomes = None
            if waits:
                self._channel.lost(sent)
                outcomes = self._after_marker(step, operations)
                if not self._channel.is_unknown(sent):
                    # A signal handler made calls meanwhile: with them these were made, too.
                    sent, outcomes = self._channel.prepare(step.make), None
                    operations = [*sent, *step.then]
            try:
                if outcomes is None:
                    outcomes = self.transport.execute(operations)
            except NotSendable:
                raise  # nothing was sent, and sent again it would be in the way for ever
            except BaseException:
                self._channel.lost(sent)
                raise
            value = self._channel.settle(sent, outcomes[: len(sent)])
            return [value, *outcomes[len(sent) :]] if step.then else value

    def _after_marker(self, step: GatedCall, operations: list[Operation[Any]]) -> list[Any] | None:
        """Outcomes of operations that wait for a marker; None where they are unknown: the same ones are sent again."""
        self._turn.waiting, self._waiter = True, threading.get_ident()
        try:
            # Who wants the turn is seen here, or sees that somebody waits and interrupts.
            if self._turn.wanted:
                return None
            return self.transport.wait_and_execute((step.marker,), step.seconds, operations)
        finally:
            self._turn.waiting, self._waiter = False, None

    @contextmanager
    def _turn_taken(self) -> Generator[None]:
        """The turn to make a call of the channel. Who has it for the time of a wait is interrupted."""
        if self._pid != os.getpid():
            self._let_go()
        if self._waiter == threading.get_ident():
            yield  # a signal handler, called in the middle of the wait
            return
        with self._counting:
            self._turn.wanted += 1
        try:
            if self._turn.ends_wait():
                self.transport.interrupt()
            self._lock.acquire()
        finally:
            with self._counting:
                self._turn.wanted -= 1
        try:
            yield
        finally:
            self._lock.release()
