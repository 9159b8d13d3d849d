"""Checks arguments before a call does anything: users may have no type checker."""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Iterator
from operator import index
from pathlib import Path
from typing import Any, TypeVar, cast

from broker.errors import BadArgument, CheckpointError

T = TypeVar("T")

_SHOWN_CHARS = 60


def whole(name: str, given: Any, low: int, high: int) -> int:
    """A whole number of a range, ends included; of any integer type, such as NumPy's."""
    try:
        number = index(given)
    except TypeError:
        number = low - 1
    if not low <= number <= high:
        raise BadArgument(argument=name, given=shown(given), expected=f"{low} to {high}")
    return number


def seconds_of(name: str, given: Any) -> float | None:
    """A number of seconds, of any number type, or None."""
    if given is None:
        return None
    try:
        number = math.nan if isinstance(given, (str, bytes, bytearray)) else float(given)
    except (TypeError, ValueError, OverflowError):
        number = math.nan
    if math.isnan(number):
        raise BadArgument(argument=name, given=shown(given), expected="a number of seconds, or None")
    return number


def bytes_of(name: str, given: Any) -> bytes:
    """Bytes; another buffer's are copied."""
    check_type(name, given, (bytes, bytearray, memoryview), "bytes, or None")
    return bytes(given)


def check_type(name: str, given: object, kind: type[Any] | tuple[type[Any], ...], expected: str) -> None:
    """Refuses values of another type."""
    if not isinstance(given, kind):
        raise BadArgument(argument=name, given=shown(given), expected=expected)


def check_text(name: str, given: object) -> None:
    """Refuses values that are not text, or text that cannot be sent."""
    check_type(name, given, str, "a str")
    try:
        cast("str", given).encode()
    except UnicodeEncodeError as error:
        raise BadArgument(problem=f"the {name} cannot be sent ({error})") from error


def one_or_several(name: str, given: T | Iterable[T], kind: type[T], expected: str) -> Iterable[T]:
    """Makes a list of one value or several; the caller checks the values."""
    return (given,) if isinstance(given, kind) else several(name, given, expected)


def several(name: str, given: Iterable[T] | T, expected: str) -> Iterator[T]:
    """An iterator over the argument; refuses one that cannot be iterated over."""
    try:
        return iter(cast("Iterable[T]", given))
    except TypeError as error:
        raise BadArgument(argument=name, given=shown(given), expected=expected) from error


def path_of(name: str, given: Any) -> Path:
    """Checks the path of a checkpoint."""
    check_type(name, given, (str, os.PathLike), "a path")
    if os.fspath(given) == "":
        raise CheckpointError(path="''", problem="has no name")
    return Path(given)


def shown(given: object) -> str:
    """A value for messages, without its repr where that may be huge or fail."""
    if given is None or isinstance(given, (bool, float)) or (isinstance(given, int) and abs(given) < 2**64):
        return repr(given)
    if isinstance(given, int):
        return f"a number of {given.bit_length()} bits"
    if isinstance(given, str):
        return ascii(given) if len(given) <= _SHOWN_CHARS else f"{given[:_SHOWN_CHARS]!a}..."
    return f"a value of type {type(given).__name__}"
