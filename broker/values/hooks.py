"""Hooks that users give to clients: which client can call which, and with what."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import Any

from broker.errors import BadArgument
from broker.values.arguments import shown


def check_hook(name: str, hook: Callable[..., Any] | None) -> None:
    """Refuses what no client can call.

    Args:
        name: the argument's name.
        hook: the user's; None: there is none.

    Raises:
        BadArgument: it cannot be called.
    """
    if hook is not None and not callable(hook):
        raise BadArgument(argument=name, given=shown(hook), expected="a function, or None")


def check_plain_hook(name: str, hook: Callable[..., Any] | None) -> None:
    """Refuses what a synchronous client cannot call for an answer.

    Args:
        name: the argument's name.
        hook: the user's: a function, a method, a partial of either, or an object with `__call__`; None: there is none.

    Raises:
        BadArgument: it cannot be called, or what it returns has to be awaited.
    """
    check_hook(name, hook)
    if is_async(hook):
        raise not_plain_hook(name, hook)


def plain_answer(name: str, hook: Callable[..., Any], answer: Any) -> Any:
    """What a hook answered a synchronous client; refuses what would have to be awaited, which is then never begun."""
    if inspect.isawaitable(answer):
        if inspect.iscoroutine(answer):
            answer.close()
        raise not_plain_hook(name, hook)
    return answer


def not_plain_hook(name: str, hook: Any) -> BadArgument:
    """The error of a hook whose answer would have to be awaited, where nobody awaits."""
    return BadArgument(
        argument=name, given=repr(hook), expected="a plain function (async def ones are for the clients of broker.aio)"
    )


def is_async(hook: Any) -> bool:
    """Whether what it returns has to be awaited, as far as that shows before it is called."""
    while isinstance(hook, functools.partial):
        hook = hook.func
    called = type(hook).__call__ if callable(hook) else None
    return any(inspect.iscoroutinefunction(part) or inspect.isasyncgenfunction(part) for part in (hook, called))


def takes(hook: Callable[..., Any], name: str) -> bool:
    """Whether a hook has a parameter of that name, which nothing is bound to, besides two that it takes by position."""
    if name in getattr(hook, "keywords", {}):  # of a partial
        return False
    try:
        signature = inspect.signature(hook)
        signature.bind(None, None, **{name: None})
    except (TypeError, ValueError):  # it takes them otherwise, or does not say
        return False
    return name in signature.parameters
