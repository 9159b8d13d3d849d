"""What both workers do with a handler of the user's: refuse one that they cannot use, and say where one failed."""

from __future__ import annotations

import functools
import inspect
import logging
from collections.abc import Callable
from typing import Any

from broker.errors import BadArgument, BrokerError
from broker.models import Attempt

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
    if not callable(handler) or _is_async(handler):
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


def log_failure(attempt: Attempt, error: Exception) -> None:
    """Logs that an attempt failed, with the traceback unless the broker's own words say all.

    Args:
        attempt: what was worked on.
        error: what the handler raised, or why its result cannot be sent.
    """
    trace = None if isinstance(error, BrokerError) else error
    _log.warning("attempt %s failed: %r", attempt.id, error, exc_info=trace)


def _is_async(handler: Callable[..., Any]) -> bool:
    while isinstance(handler, functools.partial):
        handler = handler.func
    called = type(handler).__call__
    return any(inspect.iscoroutinefunction(part) or inspect.isasyncgenfunction(part) for part in (handler, called))
