"""The rows of a data set as tasks, one pass after the other, without end."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from broker.errors import BadArgument
from broker.values.task import Task


class Prompts:
    """An iterator of tasks that knows its position. Task `prompt/N` is row N modulo the number of rows.

    TRL's loader asks for samples beyond the last step, so the tasks do not end; TRL says when training ends.

    Args:
        rows: the data set; each row has a `prompt`.
        samples: of each prompt.

    Raises:
        BadArgument: the data set has no row.
    """

    def __init__(self, rows: Sequence[Mapping[str, Any]], samples: int) -> None:
        if not len(rows):
            raise BadArgument(argument="dataset", given="no row", expected="at least one row with a prompt")
        self._rows, self._samples, self._next = rows, samples, 0

    def __iter__(self) -> Iterator[Task]:
        return self

    def __next__(self) -> Task:
        task = self.task(f"prompt/{self._next}")
        self._next += 1
        return task

    def task(self, name: str) -> Task:
        """The task of a name."""
        return Task(id=name, payload=dict(self._rows[number_of(name) % len(self._rows)]), samples=self._samples)

    def state_dict(self) -> dict[str, int]:
        """The position."""
        return {"next": self._next}

    def load_state_dict(self, state_dict: Mapping[str, int]) -> None:
        """Goes to a position."""
        self._next = state_dict["next"]


def number_of(task: str) -> int:
    """The number of a task by its name: TRL's number of the group."""
    return int(task.removeprefix("prompt/"))
