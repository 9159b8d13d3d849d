"""Carries out flows over a synchronous transport."""

from __future__ import annotations

import sys
import threading
import traceback
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, TypeVar

from broker.connections import Transport
from broker.errors import BadArgument, BrokerError, NotSendable, ServerUnavailable
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
from broker.values.hooks import plain_answer
from broker.worker.signals import shorten

T = TypeVar("T")

_FORKED = (
    "this trainer was opened before a fork, and its calls belong to that process: open another one in the child, "
    "or one with attach=True"
)
_IN_CALL = (
    "a signal handler may not make a call of the trainer in the middle of another: let it set a flag that the loop "
    "looks at"
)


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
        self._turn = threading.Lock()
        self._owner = 0  # the thread whose turn it is

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
        except KeyboardInterrupt as error:
            shorten(error)
            raise

    def run_within(self, flow: Flow[T], seconds: float) -> T:
        """As `run`, but waits no longer than some seconds, whatever the flow waits for: DNS and a silent server, too.

        What is not done by then is broken off when the transport is closed.

        Raises:
            ServerUnavailable: it has not ended.
        """
        try:
            done, _ = in_background(lambda: self.run(flow), "broker-ending")
        except RuntimeError:  # no threads are started any more: the interpreter ends
            return self.run(flow)
        try:
            return done.result(seconds)
        except TimeoutError:
            if done.done():
                raise
            problem = "ending waits no longer"
            raise ServerUnavailable(url=self.transport.url, seconds=round(seconds, 1), error=problem) from None

    def _do(self, step: Step) -> Any:
        match step:
            case Call(operations):
                return self.transport.execute(operations)
            case GatedCall():
                return self._in_turn(lambda: self._gated(step))
            case TakeOver():
                return self._in_turn(lambda: self._take_over(step))
            case Fetch(keys):
                return self.transport.fetch(keys)
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
            case Ask(name, hook, given, named):
                return plain_answer(name, hook, hook(*given, **named))

    def _take_over(self, step: TakeOver) -> Any:
        assert self._channel is not None
        outcome = self.transport.execute([step.operation])[0]
        if isinstance(outcome, BrokerError):
            raise outcome
        self._channel.restart(step.token)
        return outcome

    def _gated(self, step: GatedCall) -> Any:
        assert self._channel is not None
        sent = self._channel.prepare(step.make)
        try:
            outcomes = self.transport.execute([*sent, *step.then])
        except NotSendable:  # sent again it would be in the way for ever
            self._channel.unsent(sent)
            raise
        value = self._channel.settle(sent, outcomes[: len(sent)])
        return [value, *outcomes[len(sent) :]] if step.then else value

    def _in_turn(self, call: Callable[[], T]) -> T:
        """Makes a call of the channel when its turn has come; refused where nobody would ever give it."""
        if self.transport.is_forked:
            raise BadArgument(problem=_FORKED)
        if self._owner == threading.get_ident():
            raise BadArgument(problem=_IN_CALL)
        with self._turn:
            self._owner = threading.get_ident()
            try:
                return call()
            finally:
                self._owner = 0


def in_background(call: Callable[[], T], name: str) -> tuple[Future[T], threading.Thread]:
    """Calls something in a thread of its own, which does not keep the process from ending.

    Args:
        call: what to call.
        name: of the thread.

    Returns:
        What it will have returned or raised, and the thread.

    Raises:
        RuntimeError: no thread can be started; nothing was called.
    """
    done: Future[T] = Future()

    def finish() -> None:
        try:
            done.set_result(call())
        except BaseException as error:  # noqa: BLE001 - raised again by `result`
            done.set_exception(error)

    thread = threading.Thread(target=finish, name=name, daemon=True)
    thread.start()
    return done, thread


def stack_of(thread: threading.Thread) -> str:
    """Where a thread is, in lines; empty where it has ended."""
    frame = sys._current_frames().get(thread.ident or 0)  # noqa: SLF001 # pyright: ignore[reportPrivateUsage] - documented
    return "".join(traceback.format_stack(frame)) if frame is not None else ""
