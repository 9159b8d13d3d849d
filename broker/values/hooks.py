"""Checks hooks that users give to clients: which client can call them, and with which arguments."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import Any

from broker.errors import BadArgument
from broker.values.arguments import shown


def check_hook(name: str, hook: Callable[..., Any] | None) -> None:
    """Refuses a hook that cannot be called.

    Args:
        name: the argument's name.
        hook: the user's; None: no hook was given.

    Raises:
        BadArgument: the hook cannot be called.
    """
    if hook is not None and not callable(hook):
        raise BadArgument(argument=name, given=shown(hook), expected="a function, or None")


def check_plain_hook(name: str, hook: Callable[..., Any] | None) -> None:
    """Refuses a hook that a synchronous client cannot use.

    Args:
        name: the argument's name.
        hook: a function, a method, a partial of either, or an object with `__call__`; None: no hook was given.

    Raises:
        BadArgument: the hook cannot be called, or its answer would have to be awaited.
    """
    check_hook(name, hook)
    if is_async(hook):
        raise not_plain_hook(name, hook)


def plain_answer(name: str, hook: Callable[..., Any], answer: Any) -> Any:
    """A hook's answer to a synchronous client. Refuses an awaitable, which is then never started."""
    if inspect.isawaitable(answer):
        if inspect.iscoroutine(answer):
            answer.close()
        raise not_plain_hook(name, hook)
    return answer


def not_plain_hook(name: str, hook: Any) -> BadArgument:
    """The error of a hook whose answer would have to be awaited, for a client that awaits nothing."""
    return BadArgument(
        argument=name, given=repr(hook), expected="a plain function (async def ones are for the clients of broker.aio)"
    )


def is_async(hook: Any) -> bool:
    """Whether a function's answer has to be awaited, as far as that can be known before a call."""
    while isinstance(hook, functools.partial):
        hook = hook.func
    called = type(hook).__call__ if callable(hook) else None
    return any(inspect.iscoroutinefunction(part) or inspect.isasyncgenfunction(part) for part in (hook, called))


def takes(hook: Callable[..., Any], name: str) -> bool:
    """Whether a hook has a free parameter of that name, besides two that it takes by position."""
    if name in getattr(hook, "keywords", {}):  # the arguments of a partial
        return False
    try:
        signature = inspect.signature(hook)
        signature.bind(None, None, **{name: None})
    except (TypeError, ValueError):  # it takes other arguments, or has no signature
        return False
    return name in signature.parameters
