"""Where the choices of a random run come from: a seeded generator, or Hypothesis."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Protocol, TypeVar

T = TypeVar("T")


class Chooser(Protocol):
    """A source of choices."""

    def integer(self, low: int, high: int) -> int:
        """An integer between two bounds, both included."""
        ...


class Seeded:
    """Choices of a seeded generator: the same seed, the same run."""

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)

    def integer(self, low: int, high: int) -> int:
        """An integer between two bounds, both included."""
        return low + int(self._random.random() * (high - low + 1))


def pick(chooser: Chooser, items: Sequence[T]) -> T:
    """One of the items; the first is the simplest."""
    return items[chooser.integer(0, len(items) - 1)]


def chance(chooser: Chooser, percent: int) -> bool:
    """True in about `percent` of 100 cases; False is the simplest."""
    return chooser.integer(0, 99) >= 100 - percent


def some(chooser: Chooser, items: Sequence[T], most: int) -> list[T]:
    """Up to `most` different items, at least one where there are any."""
    left = list(items)
    count = min(len(left), chooser.integer(1, most))
    return [left.pop(chooser.integer(0, len(left) - 1)) for _ in range(count)]


def weighted(chooser: Chooser, items: Sequence[tuple[T, int]]) -> T:
    """One of the items, by weight."""
    at = chooser.integer(0, sum(weight for _, weight in items) - 1)
    for item, weight in items:
        at -= weight
        if at < 0:
            return item
    raise AssertionError
