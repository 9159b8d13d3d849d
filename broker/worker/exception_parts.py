"""Looks at exceptions that a user's code raised, past whatever their classes make of it.

A class may replace any attribute of its exceptions, `__class__` included, by code that raises. What stands here asks
the interpreter instead.
"""

from __future__ import annotations

from collections.abc import Generator
from types import TracebackType
from typing import Any, cast

_PARTS: dict[str, Any] = {name: vars(BaseException)[name] for name in ("__cause__", "__context__", "__traceback__")}
_EXCEPTIONS: Any = vars(BaseExceptionGroup)["exceptions"]
_NAME: Any = type.__dict__["__name__"]


def is_a(error: BaseException, *kinds: type[BaseException]) -> bool:
    """Whether an exception is of one of these kinds; `isinstance` would ask its class."""
    return issubclass(type(error), kinds)


def trace_of(error: BaseException) -> TracebackType | None:
    """The traceback of an exception."""
    return cast("TracebackType | None", _PARTS["__traceback__"].__get__(error))


def name_of(error: BaseException) -> str:
    """The name of an exception's class."""
    return cast("str", _NAME.__get__(type(error)))


def chain_of(error: BaseException) -> Generator[BaseException]:
    """An exception, its causes and contexts, and the exceptions that it groups."""
    left, seen = [error], set[int]()
    while left:
        one = left.pop()
        if id(one) in seen:
            continue
        seen.add(id(one))
        yield one
        left += [other for part in ("__cause__", "__context__") if (other := _PARTS[part].__get__(one)) is not None]
        if is_a(one, BaseExceptionGroup):
            left += cast("tuple[BaseException, ...]", _EXCEPTIONS.__get__(one))
