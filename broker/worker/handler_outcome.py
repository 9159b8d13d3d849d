"""What both workers do with the user's handler: refuse one that they cannot use, and judge how it ended."""

from __future__ import annotations

import asyncio
import inspect
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final, Literal

from broker.errors import (
    BadArgument,
    BrokerError,
    CodecError,
    NotSendable,
    ReadOnlyServer,
    Reject,
    ServerUnavailable,
    TooBig,
    WorkerFault,
)
from broker.protocol.worker import TRACE_BYTES, FailureKind
from broker.values.hooks import is_async
from broker.values.verdict import Verdict
from broker.worker.exception_parts import is_a, name_of, trace_of
from broker.worker.signals import told_to_end

#: Longest reason that goes with a failure or a verdict, bytes of UTF-8.
REASON_BYTES: Final = 2000

#: Where an exception came from: the user's handler, encoding its result, or sending it. `block`: a `with`
#: block of the worker ended with the exception; there the user's code and the worker's calls take turns.
During = Literal["handler", "encoding", "sending", "block"]

#: Flags of code that can be closed from outside: generators and coroutines.
_CLOSABLE: Final = (
    inspect.CO_GENERATOR | inspect.CO_COROUTINE | inspect.CO_ASYNC_GENERATOR | inspect.CO_ITERABLE_COROUTINE
)

_PLAIN = "a function of an attempt (async def handlers are for broker.aio.Worker)"
_ASYNC = "an async def function of an attempt (plain functions are for broker.Worker)"


def check_plain_handler(handler: Callable[..., Any]) -> None:
    """Refuses a handler that a worker with threads cannot use.

    Args:
        handler: the user's: a function, a method, a partial of either, or an object with `__call__`.

    Raises:
        BadArgument: the handler cannot be called, or its result would have to be awaited.
    """
    if not callable(handler) or is_async(handler):
        raise not_plain(handler)


def check_async_handler(handler: Callable[..., Any]) -> None:
    """Refuses a handler that cannot be called. Its result is checked after the call: see `not_awaitable`.

    Args:
        handler: the user's.

    Raises:
        BadArgument: the handler cannot be called.
    """
    if not callable(handler):
        raise not_awaitable(handler)


def not_plain(handler: Callable[..., Any]) -> BadArgument:
    """The error of a handler whose result would have to be awaited, for a worker that awaits nothing."""
    return BadArgument(argument="handler", given=repr(handler), expected=_PLAIN)


def not_awaitable(handler: Callable[..., Any]) -> BadArgument:
    """The error of a handler whose result cannot be awaited."""
    return BadArgument(argument="handler", given=repr(handler), expected=_ASYNC)


@dataclass(frozen=True, slots=True)
class Outcome:
    """How an attempt ended that has no result to submit.

    Args:
        how: `judged`: by a verdict; `failed`: counted; `released`: without penalty.
        reason: in words that can be sent.
        retry: whether a failure may be tried again.
        kind: whose fault a failure is.
        verdict: what the worker says of the rollout; None if it failed or is given back.
    """

    how: Literal["judged", "failed", "released"]
    reason: str = ""
    retry: bool = True
    kind: FailureKind = "task"
    verdict: Verdict | None = None


def judged(error: BaseException, during: During) -> Outcome:
    """Decides what an exception means for the attempt that it ended.

    Any exception of a handler is a counted failure, `sys.exit` included: a task that ends its workers would
    otherwise be handed out for ever. An exception of a signal, or of a server that cannot be reached, is no fault of
    the task; a WorkerFault is the worker's. A result that cannot be encoded, or that the server refuses, is not tried
    again.

    Args:
        error: the exception.
        during: where it comes from.
    """
    if is_a(error, Reject):
        return Outcome("judged", words_of(error, str), verdict="reject")
    outside = is_a(error, ServerUnavailable, ReadOnlyServer)
    if during == "block":
        outside = outside or _ended_from_outside(error)
    if (outside and during != "handler") or told_to_end(error):
        return Outcome("released")
    if is_a(error, WorkerFault):
        return Outcome("failed", words_of(error), kind="worker")
    lasting = is_a(error, CodecError, TooBig, NotSendable)
    if during == "encoding":
        lasting = not is_a(error, MemoryError)
    return Outcome("failed", words_of(error), retry=not lasting)


def _ended_from_outside(error: BaseException) -> bool:
    """Whether a block was ended by the code that awaits or iterates over it, not by the code in it."""
    if is_a(error, asyncio.CancelledError):
        try:
            task = asyncio.current_task()
        except RuntimeError:  # no loop runs here, so nothing can cancel it
            return False
        return task is not None and task.cancelling() > 0
    trace = trace_of(error)
    while trace is not None and trace.tb_frame.f_code.co_flags & _CLOSABLE:
        trace = trace.tb_next
    return is_a(error, GeneratorExit) and trace is None


def words_of(error: BaseException, shown: Callable[[BaseException], str] = repr) -> str:
    """An exception as text to send: cut where it is too long, the type's name where it has no text.

    Args:
        error: the exception, whose `__repr__` and `__str__` are the user's and may do anything.
        shown: `repr` (of one of the broker's its sentence) or `str`.
    """
    try:
        if is_a(error, BrokerError) and shown is repr:
            return sendable(f"{name_of(error)}: {error}")
        return sendable(shown(error))
    except BaseException as problem:
        if told_to_end(problem):
            raise
        return sendable(f"{name_of(error)} (its text cannot be shown)")


def traceback_of(error: BaseException) -> str:
    """The traceback of an exception as text to send, of a long one the end; empty where it was not raised."""
    if trace_of(error) is None:
        return ""
    try:
        text = "".join(traceback.format_exception(error))
    except BaseException as problem:  # the texts of its exceptions are the user's and may do anything
        if told_to_end(problem):
            raise
        return ""
    whole = text.encode(errors="backslashreplace")
    return text if len(whole) <= TRACE_BYTES else "...\n" + whole[4 - TRACE_BYTES :].decode(errors="ignore")


def sendable(text: str) -> str:
    """Text to send with an attempt: characters that are no UTF-8 are escaped, and it is cut at REASON_BYTES."""
    if len(text) <= REASON_BYTES and len(whole := text.encode(errors="backslashreplace")) <= REASON_BYTES:
        return whole.decode()
    told = f"... ({len(text)} characters)"
    kept = text[:REASON_BYTES].encode(errors="backslashreplace")[: REASON_BYTES - len(told)]
    return kept.decode(errors="ignore") + told
