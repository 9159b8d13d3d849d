"""Numbers as people say them."""

from __future__ import annotations

from collections.abc import Iterable


def duration(seconds: float) -> str:
    """A length of time in one or two units: `0.4 s`, `42 s`, `3 min 20 s`, `2 h 5 min`, `4 d 1 h`."""
    if seconds < 0:
        return f"-{duration(-seconds)}"
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return _two(whole // 60, "min", whole % 60, "s")
    if whole < 86_400:
        return _two(whole // 3600, "h", whole % 3600 // 60, "min")
    return _two(whole // 86_400, "d", whole % 86_400 // 3600, "h")


def _two(large: int, large_unit: str, small: int, small_unit: str) -> str:
    return f"{large} {large_unit} {small} {small_unit}" if small else f"{large} {large_unit}"


def count(number: int, singular: str, plural: str | None = None) -> str:
    """A number with its noun: `1 task`, `0 tasks`, `12,000 tasks`."""
    return f"{number:,} {singular if number == 1 else plural or singular + 's'}"


def listing(words: Iterable[str], conjunction: str = "and") -> str:
    """Words as an enumeration: `a`, `a and b`, `a, b and c`."""
    items = list(words)
    if len(items) < 2:
        return "".join(items)
    return f"{', '.join(items[:-1])} {conjunction} {items[-1]}"
