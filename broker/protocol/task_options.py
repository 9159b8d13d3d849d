"""The options of a task, and how calls, records and tasks files hold them (in Lua: `lua/include/task_options.lua`)."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, fields
from functools import lru_cache
from operator import attrgetter
from typing import Any, Final

from broker.values.task import Task


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskOptions:
    """What a trainer says of a task besides its id and payload.

    A new option needs a field here, named as in `Task`, and no place in a list: calls, records and files name it.
    """

    samples: int = 1
    enough: int | None = None
    min_samples: int = 1
    priority: int = 0
    timeout_ms: int | None = None
    max_attempts: int | None = None

    @staticmethod
    def of(task: Task) -> TaskOptions:
        """The options of a task."""
        return _shared(_given(task))

    @property
    def text(self) -> str:
        """`name=value,...` as scripts take it, without the options that have their default."""
        return self._text(_NAMES)

    @property
    def others(self) -> str:
        """The same of the options that have no place of their own in records and files."""
        return self._text(_OTHERS)

    def _text(self, names: tuple[str, ...]) -> str:
        given = ((name, getattr(self, name)) for name in names)
        return ",".join(f"{name}={value}" for name, value in given if value != _DEFAULTS[name])


#: Each option has its default.
NO_OPTIONS: Final = TaskOptions()
#: Records and tasks files have had a place for each of these since the first release.
HAVE_PLACES: Final = ("priority", "samples", "min_samples")
_DEFAULTS: Final = {field.name: field.default for field in fields(TaskOptions)}
_NAMES: Final = tuple(_DEFAULTS)
_OTHERS: Final = tuple(name for name in _NAMES if name not in HAVE_PLACES)

_given: Callable[[Task], tuple[int | None, ...]] = attrgetter(*_NAMES)


@lru_cache(maxsize=1024)  # most tasks of a data set have equal options
def _shared(given: tuple[int | None, ...]) -> TaskOptions:
    options: dict[str, Any] = dict(zip(_NAMES, given, strict=True))
    options["min_samples"] = options["min_samples"] or options["enough"] or options["samples"]
    return TaskOptions(**options)


def named(pairs: Iterable[str]) -> dict[str, int]:
    """Reads `name=value` pairs."""
    return {name: int(value) for name, _, value in (pair.partition("=") for pair in pairs)}


def stored_options(fixed: Sequence[bytes]) -> dict[str, int]:
    """The options in the fields of a record: priority, order, samples, min_samples (and others behind it)."""
    least, *others = fixed[3].decode().split("/")
    return {"priority": int(fixed[0]), "samples": int(fixed[2]), "min_samples": int(least), **named(others)}
