"""The second file of a full checkpoint: the unfinished tasks themselves, in pieces that bound memory.

Layout: for each piece of tasks its length in bytes (4, big-endian), then msgpack of a list of [id, priority,
    samples, min_samples, payload]; where a task has more options, with their text `name=value,...` behind the payload.
"""

from __future__ import annotations

import hashlib
import os
import secrets
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, cast

import msgpack

from broker.errors import CheckpointError
from broker.errors.words import count
from broker.protocol.task_options import HAVE_PLACES, named
from broker.protocol.trainer import NewTask
from broker.recovery.checkpoint import TasksFile, put_in_place
from broker.values.task import Task

# msgpack's own annotations leave these open.
_pack = cast("Callable[[object], bytes]", msgpack.packb)  # pyright: ignore[reportUnknownMemberType]
_unpackb = cast("Callable[..., list[Any]]", msgpack.unpackb)  # pyright: ignore[reportUnknownMemberType]


def _unpack(raw: bytes) -> list[Any]:
    return _unpackb(raw, max_array_len=100_000, max_map_len=0, max_str_len=1000, max_ext_len=0)


class TasksWriter:
    """Writes pieces to a temporary file as they come; `finish` gives the file its name."""

    def __init__(self, checkpoint: Path) -> None:
        self._path = checkpoint.parent / f"{checkpoint.name}.{secrets.token_hex(4)}.tasks"
        self._spool = self._path.parent / f".{self._path.name}.tmp"
        self._digest = hashlib.sha256()
        self._tasks = 0
        try:
            checkpoint.parent.mkdir(parents=True, exist_ok=True)
            self._file = self._spool.open("wb")
        except OSError as error:
            raise CheckpointError(
                path=str(self._spool), problem=f"could not be written: {error.strerror or error}"
            ) from error

    def add(self, tasks: list[NewTask]) -> None:
        """Appends a piece."""
        body = _pack([_row(task) for task in tasks])
        piece = len(body).to_bytes(4, "big") + body
        try:
            self._file.write(piece)
        except OSError as error:
            raise CheckpointError(
                path=str(self._spool), problem=f"could not be written: {error.strerror or error}"
            ) from error
        self._digest.update(piece)
        self._tasks += len(tasks)

    def finish(self) -> TasksFile:
        """Renames the file to its place, beside the checkpoint that will name it."""
        try:
            self._file.flush()
            os.fsync(self._file.fileno())
            self._file.close()
            put_in_place(self._spool, self._path)
        except OSError as error:
            raise CheckpointError(
                path=str(self._path), problem=f"could not be written: {error.strerror or error}"
            ) from error
        return TasksFile(name=self._path.name, sha256=self._digest.hexdigest(), tasks=self._tasks)

    def abandon(self) -> None:
        """Deletes the temporary file."""
        self._file.close()
        self._spool.unlink(missing_ok=True)


def verify_tasks_file(path: Path, expected: TasksFile) -> None:
    """Raises CheckpointError unless the file exists, is whole, and holds the announced tasks."""
    digest = hashlib.sha256()
    try:
        with path.open("rb") as file:
            while block := file.read(1 << 20):
                digest.update(block)
    except OSError as error:
        raise CheckpointError(path=str(path), problem=f"could not be read: {error.strerror or error}") from error
    if digest.hexdigest() != expected.sha256:
        raise CheckpointError(path=str(path), problem="is damaged: its checksum is wrong")
    tasks = sum(len(piece) for piece in read_tasks(path))
    if tasks != expected.tasks:
        raise CheckpointError(
            path=str(path), problem=f"holds {count(tasks, 'task')}, {count(expected.tasks, 'is', 'are')} announced"
        )


def read_tasks(path: Path) -> Iterator[list[NewTask]]:
    """The pieces of the file, each checked."""
    try:
        left = path.stat().st_size
        with path.open("rb") as file:
            while head := file.read(4):
                size = int.from_bytes(head, "big")
                left -= 4 + size
                if len(head) < 4 or left < 0:
                    raise CheckpointError(path=str(path), problem="is not whole")
                yield [_task(row) for row in _unpack(file.read(size))]
    except OSError as error:
        raise CheckpointError(path=str(path), problem=f"could not be read: {error.strerror or error}") from error
    except (ValueError, TypeError, msgpack.UnpackException, RecursionError) as error:
        raise CheckpointError(path=str(path), problem=f"does not hold tasks as it should: {error}") from error


def _row(task: NewTask) -> list[Any]:
    options = task.options
    others = [options.others] if options.others else []
    return [task.id, *(getattr(options, name) for name in HAVE_PLACES), task.payload, *others]


def _task(row: Any) -> NewTask:
    name, *placed, payload = row[: 2 + len(HAVE_PLACES)]
    if not isinstance(payload, bytes):
        raise TypeError("a payload is not bytes")
    options: dict[str, Any] = dict(zip(HAVE_PLACES, placed, strict=True))
    for others in row[2 + len(HAVE_PLACES) :]:
        if not isinstance(others, str):
            raise TypeError("options are not a text")
        options |= named(others.split(","))
    return NewTask.of(Task(id=name, **options), payload)
