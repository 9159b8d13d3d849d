"""What became of the tasks of an enqueue, and the iterators that they came from."""

from __future__ import annotations

import weakref
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass, field
from types import TracebackType
from typing import Self, cast

from broker.errors import BadArgument, BrokerError
from broker.protocol.trainer import Supply
from broker.values.task import Task

#: How many iterators that were left in the middle this process remembers: the newest.
_MOST_LEFT = 16


@dataclass(frozen=True, slots=True)
class Enqueued:
    """What became of the tasks of an enqueue.

    Args:
        added: how many were added.
        existing: the ids of the tasks that the run knew already, and left alone.
        states: the state of each of these, by id: `pending`, `delayed`, `running`, `ready`, `batched` (in the
            unsealed batch), `sealed`, `consumed`, `dead` or `rejected`. A task whose record was freed is `freed` (it
            was trained on) or `freed_untrained` (it ended dead or rejected). `enqueue(again=True)` takes those that
            were not trained on, and will not be.
    """

    added: int
    existing: list[str]
    states: dict[str, str] = field(default_factory=dict[str, str])

    @property
    def counts(self) -> dict[str, int]:
        """How many existing tasks are in each state."""
        return dict(Counter(self.states.values()))


class LeftIterators:
    """Iterators that an enqueue left in the middle: it took tasks from them that it did not send.

    A second enqueue of the same iterator would miss these tasks, and would store the cursor that is behind them. It may
    be another trainer's, which was opened after the error.
    """

    def __init__(self) -> None:
        self._left: list[Callable[[], object]] = []

    def add(self, tasks: object) -> None:
        """Remembers an iterator by a weak reference, where its type allows one."""
        there = [each for each in self._left if each() is not None]
        try:
            reference: Callable[[], object] = weakref.ref(tasks)
        except TypeError:  # its type has no weak references, such as map

            def reference() -> object:
                return tasks

        self._left = [*there, reference][-_MOST_LEFT:]

    def __contains__(self, tasks: object) -> bool:
        return any(each() is tasks for each in self._left)


#: Those of all trainers of this process.
_LEFT = LeftIterators()


def refuse_left(given: object) -> None:
    """Refuses tasks from an iterator that an enqueue or a feeder left in the middle."""
    if given in _LEFT:
        raise BadArgument(
            problem="these tasks come from an iterator that an enqueue before left in the middle; tasks are missing"
            " in it: make a new one from the first task on (tasks that were added before are left alone)"
        )


def note_left(given: object) -> None:
    """Notes that tasks were left in the middle, if they come from an iterator."""
    if isinstance(given, (Iterator, AsyncIterator)):
        _LEFT.add(cast("object", given))


def _nothing() -> None:
    pass


class Arrival:
    """One enqueue: counts what became of its tasks, and notes an iterator that it leaves in the middle.

    Args:
        given: the tasks, as the caller gave them.
        cursor: the data loader's position after the tasks, encoded, or None.
        again: start dead and rejected tasks over.

    Attributes:
        supply: what the last call says of the tasks after these.
        check: called before each call; its error ends the enqueue.

    Raises:
        BadArgument: the tasks come from an iterator that was left in the middle.
    """

    def __init__(self, given: object, cursor: str | None, *, again: bool) -> None:
        refuse_left(given)
        self._given = given
        self.cursor, self.again = cursor, again
        self.supply: Supply = ""
        self.check: Callable[[], None] = _nothing
        self._added = 0
        self._existing: list[str] = []
        self._states: dict[str, str] = {}

    @property
    def supply_between(self) -> Supply:
        """What the calls before the last one say: those of a feeder are not taken for an enqueue of the user's."""
        return "more" if self.supply else ""

    def add(self, added: int, existing: dict[str, str], ids: list[str]) -> None:
        """Notes what became of some tasks."""
        self._added += added
        self._existing += ids
        self._states |= existing

    @property
    def enqueued(self) -> Enqueued:
        """What became of the tasks so far."""
        return Enqueued(self._added, self._existing, self._states)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is None:
            return
        given: object = self._given
        if isinstance(given, Task):
            return
        note_left(given)
        if isinstance(error, BrokerError):
            error.fields.setdefault("added", self._added)
        error.add_note(
            f"{self._added} of the tasks given to enqueue were added before; give all of them again: those that are "
            "there are left alone (an iterator cannot be given again: make a new one from the first task on)"
        )
