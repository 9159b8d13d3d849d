"""What both workers do with a handler of the user's: refuse one that they cannot use, and judge how one ended."""

from __future__ import annotations

import asyncio
import inspect
import logging
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
)
from broker.values.attempt import Attempt
from broker.values.hooks import is_async
from broker.worker.signals import told_to_end

#: Longest reason that goes with a failure or a verdict, bytes of UTF-8.
REASON_BYTES: Final = 2000

#: What was going on when an exception came: the user's handler, encoding its result, or sending it. `block`: a `with`
#: block of the worker ended with the exception; there the user's code and the worker's calls take turns.
During = Literal["handler", "encoding", "sending", "block"]

#: Of code that may be closed from outside where it stands.
_CLOSABLE: Final = (
    inspect.CO_GENERATOR | inspect.CO_COROUTINE | inspect.CO_ASYNC_GENERATOR | inspect.CO_ITERABLE_COROUTINE
)

_log = logging.getLogger("broker")

_PLAIN = "a function of an attempt (async def handlers are for broker.aio.Worker)"
_ASYNC = "an async def function of an attempt (plain functions are for broker.Worker)"


def check_plain_handler(handler: Callable[..., Any]) -> None:
    """Refuses what a worker with threads cannot call for a result.

    Args:
        handler: the user's: a function, a method, a partial of either, or an object with `__call__`.

    Raises:
        BadArgument: it cannot be called, or what it returns has to be awaited.
    """
    if not callable(handler) or is_async(handler):
        raise not_plain(handler)


def check_async_handler(handler: Callable[..., Any]) -> None:
    """Refuses what cannot be called. What it returns shows itself only when it is called: see `not_awaitable`.

    Args:
        handler: the user's.

    Raises:
        BadArgument: it cannot be called.
    """
    if not callable(handler):
        raise not_awaitable(handler)


def not_plain(handler: Callable[..., Any]) -> BadArgument:
    """The error of a handler whose result would have to be awaited, where nobody awaits."""
    return BadArgument(argument="handler", given=repr(handler), expected=_PLAIN)


def not_awaitable(handler: Callable[..., Any]) -> BadArgument:
    """The error of a handler whose result cannot be awaited."""
    return BadArgument(argument="handler", given=repr(handler), expected=_ASYNC)


@dataclass(frozen=True, slots=True)
class Outcome:
    """What is reported of an attempt that ended without a result which could be submitted.

    Args:
        how: `rejected`: a verdict; `failed`: counted; `released`: without penalty.
        reason: in words that can be sent.
        retry: whether a failure may be tried again.
    """

    how: Literal["rejected", "failed", "released"]
    reason: str = ""
    retry: bool = True


def judged(error: BaseException, during: During) -> Outcome:
    """What an exception means for the attempt that it ended. Nobody else decides that.

    Whatever a handler raises is a counted failure, `sys.exit` and what is no Exception included: a task that ends
    its workers would otherwise be handed out for ever. What a signal raised, and a server that cannot be reached, are
    no fault of the task. A result that cannot be encoded or is not taken will not be the next time either.

    Args:
        error: the exception.
        during: where it comes from.
    """
    if isinstance(error, Reject):
        return Outcome("rejected", words_of(error, str))
    outside = isinstance(error, (ServerUnavailable, ReadOnlyServer))
    if during == "block":
        outside = outside or _ended_from_outside(error)
    if (outside and during != "handler") or told_to_end(error):
        return Outcome("released")
    lasting = isinstance(error, (CodecError, TooBig, NotSendable))
    if during == "encoding":
        lasting = not isinstance(error, MemoryError)
    return Outcome("failed", words_of(error), retry=not lasting)


def _ended_from_outside(error: BaseException) -> bool:
    """Whether whoever awaits or iterates over what has a block ended it, rather than the code in the block."""
    if isinstance(error, asyncio.CancelledError):
        try:
            task = asyncio.current_task()
        except RuntimeError:  # no loop runs here: nobody could cancel it
            return False
        return task is not None and task.cancelling() > 0
    trace = error.__traceback__
    while trace is not None and trace.tb_frame.f_code.co_flags & _CLOSABLE:
        trace = trace.tb_next
    return isinstance(error, GeneratorExit) and trace is None


def words_of(error: BaseException, shown: Callable[[BaseException], str] = repr) -> str:
    """An exception in words that can be sent: shorter where they are too long, its type's name where it has none.

    Args:
        error: the exception, whose `__repr__` and `__str__` are the user's and may do anything.
        shown: `repr` (of one of the broker's its sentence) or `str`.
    """
    if isinstance(error, BrokerError) and shown is repr:
        return sendable(f"{type(error).__name__}: {error}")
    try:
        return sendable(shown(error))
    except BaseException as problem:
        if told_to_end(problem):
            raise
        return sendable(f"{type.__dict__['__name__'].__get__(type(error))} (its text cannot be shown)")


def sendable(text: str) -> str:
    """Text as it can be sent with an attempt: what is no UTF-8 escaped, and at most REASON_BYTES long."""
    if len(text) <= REASON_BYTES and len(whole := text.encode(errors="backslashreplace")) <= REASON_BYTES:
        return whole.decode()
    told = f"... ({len(text)} characters)"
    kept = text[:REASON_BYTES].encode(errors="backslashreplace")[: REASON_BYTES - len(told)]
    return kept.decode(errors="ignore") + told


def log_failure(attempt: Attempt, error: BaseException, reason: str) -> None:
    """Logs that an attempt failed, with the traceback unless the broker's own words say all.

    Args:
        attempt: what was worked on.
        error: what the handler raised, or why its result cannot be sent.
        reason: the same in words.
    """
    trace = None if isinstance(error, BrokerError) else error
    _log.warning("attempt %s failed: %s", attempt.id, reason, exc_info=trace)
