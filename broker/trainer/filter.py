"""The filter of a batch: asking the user's function, and what a trainer knows of the rollouts that it asks for."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from types import CellType, FunctionType, MethodType
from typing import Any, cast

from broker.connections.base import BaseTransport
from broker.errors import BadArgument
from broker.protocol.anyone import RolloutRow
from broker.values.arguments import shown
from broker.values.rollout import Rollout

Accept = Callable[[Rollout], Any]

#: Types whose equal values are interchangeable.
_PLAIN = (int, float, str, bytes)


def check_filter(accept: Accept | None) -> None:
    """Refuses what is not a filter."""
    if accept is not None and not callable(accept):
        raise BadArgument(argument="accept", given=shown(accept), expected="a function of a Rollout, or None")


@dataclass(slots=True)
class Look:
    """A rollout of the unsealed batch, as a trainer read it.

    Args:
        row: what the server says of the rollout, without the payload.
        rollout: the same, decoded.
        accepted: what the filter answered; None before it was asked.
    """

    row: RolloutRow
    rollout: Rollout
    accepted: bool | None = None


class Gathered:
    """What a trainer has read and judged of the unsealed batch, kept until it has handed the batch out.

    So a wait that timed out or failed costs nothing when it is repeated: no rollout is read or judged twice. The
    rollouts here are those of the unsealed batch, and no others. Their order is the server's.

    Args:
        accept: the filter whose answers these are.
    """

    def __init__(self, accept: Accept) -> None:
        self.accept = accept
        self.looks: dict[str, Look] = {}
        self.is_whole = True  # every call that may have changed the batch has its answer

    def is_by(self, accept: Accept) -> bool:
        """Whether a filter is this one, though it may be another object: a method, a lambda made anew for each call."""
        return _is_same(self.accept, accept)

    def judge_by(self, accept: Accept) -> None:
        """Makes another filter judge all rollouts anew; none is read again."""
        self.accept = accept
        for look in self.looks.values():
            look.accepted = None

    def add(self, rows: Sequence[RolloutRow], rollouts: Sequence[Rollout]) -> None:
        """Adds rows that were read, and their rollouts; the filter judges them later."""
        for row, rollout in zip(rows, rollouts, strict=True):
            row.payload = b""
            self.looks[row.task] = Look(row, rollout)

    def keep(self, rows: Iterable[RolloutRow]) -> None:
        """Forgets rollouts that are not among these rows; a task may have come back with other samples."""
        there = {row.task: _identity(row) for row in rows}
        self.drop([task for task, look in self.looks.items() if there.get(task) != _identity(look.row)])

    def drop(self, tasks: Iterable[str]) -> None:
        """Forgets these tasks."""
        for task in tasks:
            del self.looks[task]

    def new(self) -> list[Look]:
        """The rollouts that the filter has not judged, oldest first."""
        return sorted((look for look in self.looks.values() if look.accepted is None), key=lambda look: look.row.first)

    async def refused(self, io: BaseTransport) -> list[str]:
        """Asks the filter for each rollout that it has not judged. Returns the tasks that it refused."""
        for look in self.new():
            look.accepted = bool(await io.ask("accept", self.accept, look.rollout))
        return [task for task, look in self.looks.items() if look.accepted is False]

    def in_order(self, step: int, digest: str) -> list[Rollout] | None:
        """The rollouts in the order of the batch with this digest; None when these are not the rollouts of that batch.

        Also None where the server cannot say: fakeredis has another hash.
        """
        looks = sorted(self.looks.values(), key=lambda look: look.row.first)
        text = " ".join((str(step), *(f"{look.row.task} {look.row.first}" for look in looks)))
        is_it = hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest() == digest
        return [look.rollout for look in looks] if is_it else None


def _identity(row: RolloutRow) -> tuple[int, list[str]]:
    """What tells a rollout of a task from a later one of the same task."""
    return row.first, [sample.attempt_id for sample in row.samples]


def _is_same(one: Any, other: Any) -> bool:
    """Whether two filters must give the same answers: one object, or the same code with the same values in it."""
    if one is other:
        return True
    if type(one) is not type(other):
        return False
    if isinstance(one, MethodType):
        return one == other
    if type(one) is partial:
        left, right = cast("partial[Any]", one), cast("partial[Any]", other)
        return _is_same(left.func, right.func) and _are_same(
            (*left.args, *sorted(left.keywords), *(left.keywords[name] for name in sorted(left.keywords))),
            (*right.args, *sorted(right.keywords), *(right.keywords[name] for name in sorted(right.keywords))),
        )
    return isinstance(one, FunctionType) and one.__code__ is other.__code__ and _are_same(_values(one), _values(other))


def _values(function: FunctionType) -> tuple[Any, ...]:
    """The values that a function was made with."""
    closure = tuple(_value(cell) for cell in function.__closure__ or ())
    named = sorted((function.__kwdefaults__ or {}).items())
    return (
        *(function.__defaults__ or ()), *(part for item in named for part in item), *closure, function.__globals__
    )  # fmt: skip


def _value(cell: CellType) -> Any:
    try:
        return cell.cell_contents
    except ValueError:  # the variable has no value yet
        return cell


def _are_same(some: tuple[Any, ...], others: tuple[Any, ...]) -> bool:
    return len(some) == len(others) and all(
        one is other or (type(one) is type(other) and isinstance(one, _PLAIN) and one == other)
        for one, other in zip(some, others, strict=True)
    )
