"""The broker's part of a training checkpoint: its fields, and how one file is written and read.

`broker.recovery.checkpoint_files` says which files a path stands for.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
import os
import stat
import tempfile
import zlib
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from broker.errors import BrokerError, CheckpointError
from broker.values.config import RunConfig
from broker.values.names import MAX_NAME_CHARS, check_name

#: Schema of the file; a newer one is refused. Unknown fields of the same schema are ignored: a release that adds a
#: field which older releases must know raises the number.
FILE_SCHEMA = 1
FORMAT = "rollout-broker checkpoint"
#: Largest file that is read, in bytes, and most policies in it.
MAX_FILE_BYTES = 1024**3
#: Newest version that a run can have, so that (S + version + 1) * B stays exact.
MAX_VERSION = 1_000_000_000
MAX_POLICIES = 10_000


class TasksFile(BaseModel):
    """The second file of a full checkpoint: the unfinished tasks themselves.

    Args:
        name: file name, beside the checkpoint.
        sha256: of its bytes.
        tasks: how many it holds.
    """

    model_config = ConfigDict(frozen=True)
    name: Annotated[str, Field(pattern=r"^[^/\\]+$", max_length=255)]
    sha256: str
    tasks: int


class _Document(BaseModel):
    """The file as JSON, without its checksum."""

    model_config = ConfigDict(strict=True)
    format: Literal["rollout-broker checkpoint"]
    schema_: Annotated[int, Field(alias="schema")]
    run: str
    version: Annotated[int, Field(ge=0, le=MAX_VERSION)]
    epoch: Annotated[str, Field(pattern=r"^\d+\.\w+$")]
    order: Annotated[int, Field(ge=0, lt=2**53)]
    config: dict[str, Any]
    counters: dict[str, int]
    cursor: Any
    blob: str | None
    policies: dict[str, str]
    recoveries: Annotated[str, Field(pattern=r"^(\d+:\d+( \d+:\d+)*)?$")]
    lineage: Annotated[str, Field(pattern=r"^(\w+:\d+( \w+:\d+)*)?$")] = ""
    unfinished_count: Annotated[int, Field(ge=0)]
    unfinished: str
    tasks_file: TasksFile | None
    number: Annotated[int, Field(ge=0, lt=10**15)] = 0
    by: Literal["trainer", "operator"] = "trainer"


@dataclass(frozen=True, slots=True, eq=False)
class Checkpoint:
    """A trainer's checkpoint of its run, saved beside its weights. Tasks before the cursor are finished unless listed.

    Args:
        run: name of the run.
        version: the policy's version.
        epoch: the trainer's epoch.
        order: number of the newest task that existed.
        config: the run's config.
        counters: accepted, running and capacity at the time.
        cursor: the data loader's position.
        blob: the blob of the version, or None.
        policies: version -> epoch that made it, for the versions that may still matter.
        recoveries: the recoveries of the run before, as the server writes them.
        lineage: which epochs gave the order numbers, as the server writes it; empty in older files.
        unfinished: ids of the tasks that were not finished.
        tasks_file: the file of these tasks, in a full checkpoint.
        path: the file that it was written to or read from, or None.
        number: its place among the checkpoints of its path, from 1; 0 in older files.
        by_operator: whether an operator wrote it: the trainer saved no weights beside it.
    """

    run: str
    version: int
    epoch: str
    order: int
    config: RunConfig
    counters: dict[str, int]
    cursor: Any
    blob: bytes | None
    policies: dict[int, str]
    recoveries: str
    unfinished: frozenset[str] = field(repr=False)
    lineage: str = ""
    tasks_file: TasksFile | None = None
    path: Path | None = None
    number: int = 0
    by_operator: bool = False

    @property
    def tasks_path(self) -> Path | None:
        """The path of the tasks file of a full checkpoint."""
        if self.tasks_file is None or self.path is None:
            return None
        return self.path.parent / self.tasks_file.name


def write_checkpoint(checkpoint: Checkpoint, path: Path) -> None:
    """Writes the file whole or not at all. Raises CheckpointError."""
    names = "\n".join(sorted(checkpoint.unfinished)).encode()
    document = {
        "format": FORMAT,
        "schema": FILE_SCHEMA,
        "run": checkpoint.run,
        "version": checkpoint.version,
        "epoch": checkpoint.epoch,
        "order": checkpoint.order,
        "config": checkpoint.config.to_document(),
        "counters": checkpoint.counters,
        "cursor": checkpoint.cursor,
        "blob": None if checkpoint.blob is None else base64.b64encode(checkpoint.blob).decode(),
        "policies": {str(version): epoch for version, epoch in sorted(checkpoint.policies.items())},
        "recoveries": checkpoint.recoveries,
        "lineage": checkpoint.lineage,
        "unfinished_count": len(checkpoint.unfinished),
        "unfinished": base64.b64encode(zlib.compress(names, 6)).decode(),
        "tasks_file": None if checkpoint.tasks_file is None else checkpoint.tasks_file.model_dump(),
        "number": checkpoint.number,
        "by": "operator" if checkpoint.by_operator else "trainer",
    }
    document["checksum"] = _checksum(document)
    write_atomically(path, [json.dumps(document, indent=1).encode(), b"\n"])


def reason_of(error: OSError | ValueError) -> str:
    """The system's reason without number and path: the error names the path already."""
    return (error.strerror if isinstance(error, OSError) else None) or str(error)


def refuse_all_but_files(path: Path) -> None:
    """Raises CheckpointError if the path is not a file's: a rename would replace a device or a pipe."""
    try:
        mode = path.stat().st_mode
        is_open_file = _names_an_open_file(path)
    except FileNotFoundError:
        return
    except (OSError, ValueError) as error:
        raise CheckpointError(path=str(path), problem=f"could not be written: {reason_of(error)}") from error
    if stat.S_ISDIR(mode):
        raise CheckpointError(path=str(path), problem="could not be written, this is a directory: name a file in it")
    if is_open_file or not stat.S_ISREG(mode):
        raise CheckpointError(path=str(path), problem="could not be written, this is a device, a pipe or a socket")


def _names_an_open_file(path: Path) -> bool:
    """Whether it is a link such as /dev/stdout or /proc/self/fd/1, or leads to one: a rename would replace it.

    Folders below /dev, such as /dev/shm, hold files like any other: the names of open files are in /dev itself.
    """
    while path.is_symlink():
        path = path.parent.resolve() / path.name
        if path.parent == Path("/dev") or path.is_relative_to("/proc"):
            return True
        path = path.parent / path.readlink()
    return False


def write_atomically(path: Path, pieces: Iterable[bytes]) -> None:
    """Temporary file, fsync, rename, fsync of the directory. Raises CheckpointError."""
    refuse_all_but_files(path)
    temporary: str | None = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor, temporary = tempfile.mkstemp(prefix=f".{path.name[:200]}.", suffix=".tmp", dir=path.parent)
        with os.fdopen(descriptor, "wb") as file:
            for piece in pieces:
                file.write(piece)
            file.flush()
            os.fsync(file.fileno())
        put_in_place(Path(temporary), path)
        temporary = None
    except OSError as error:
        raise CheckpointError(path=str(path), problem=f"could not be written: {error.strerror or error}") from error
    finally:
        if temporary is not None:
            Path(temporary).unlink(missing_ok=True)


def put_in_place(temporary: Path, path: Path) -> None:
    """Renames a file that is safely on disk, so that the name is on disk too. Raises OSError."""
    temporary.chmod(0o644)
    temporary.replace(path)
    directory = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)


def read_checkpoint(path: Path) -> Checkpoint:
    """Reads and checks a file.

    Raises:
        CheckpointError: the file is missing, cannot be read, is not whole, or has a schema that is not known.
    """

    def bad(problem: str) -> CheckpointError:
        return CheckpointError(path=str(path), problem=problem)

    try:
        size = path.stat().st_size
        if size > MAX_FILE_BYTES:
            raise bad(f"has {size} bytes, {MAX_FILE_BYTES} is the most that is read")
        raw = path.read_bytes()
    except FileNotFoundError:
        raise bad("does not exist") from None
    except (OSError, ValueError) as error:  # ValueError: no file can have this name
        raise bad(f"could not be read: {reason_of(error)}") from error
    if not raw.strip():
        raise bad("is empty")
    try:
        document = json.loads(raw)
    except (ValueError, RecursionError) as error:
        raise bad("is not whole, or not JSON") from error
    if not isinstance(document, dict) or document.get("format") != FORMAT:  # pyright: ignore[reportUnknownMemberType]
        raise bad("is not one of the broker's")
    schema = document.get("schema")  # pyright: ignore[reportUnknownVariableType,reportUnknownMemberType]
    if schema != FILE_SCHEMA:
        raise bad(f"has schema {schema!r}, this version of the broker knows {FILE_SCHEMA}")
    checksum = document.pop("checksum", None)  # pyright: ignore[reportUnknownVariableType,reportUnknownMemberType]
    if checksum != _checksum(document):  # pyright: ignore[reportUnknownArgumentType]
        raise bad("is damaged: its checksum is wrong")
    try:
        return _checkpoint(_Document.model_validate(document), path)
    except (ValidationError, BrokerError, ValueError, binascii.Error, zlib.error) as error:
        raise bad(f"does not hold what it should: {str(error).splitlines()[0]}") from error


def _checkpoint(document: _Document, path: Path) -> Checkpoint:
    policies = {int(version): epoch for version, epoch in document.policies.items()}
    if len(policies) > MAX_POLICIES or any(not 0 <= version <= document.version for version in policies):
        raise ValueError("its policies are not those of versions up to its own")
    return Checkpoint(
        run=document.run,
        version=document.version,
        epoch=document.epoch,
        order=document.order,
        config=RunConfig.from_document(document.config),
        counters=document.counters,
        cursor=document.cursor,
        blob=None if document.blob is None else base64.b64decode(document.blob, validate=True),
        policies=policies,
        recoveries=document.recoveries,
        lineage=document.lineage,
        unfinished=_names(document.unfinished, document.unfinished_count),
        tasks_file=document.tasks_file,
        path=path,
        number=document.number,
        by_operator=document.by == "operator",
    )


def _names(encoded: str, count: int) -> frozenset[str]:
    """Reads the list of unfinished tasks; memory is limited to that of the announced number of names."""
    inflate = zlib.decompressobj()
    raw = inflate.decompress(base64.b64decode(encoded, validate=True), count * (MAX_NAME_CHARS + 1) + 1)
    if not inflate.eof or inflate.unused_data:
        raise ValueError("the list of unfinished tasks is not whole")
    names = frozenset(raw.decode().split("\n")) if raw else frozenset[str]()
    if len(names) != count:
        raise ValueError(f"{len(names)} unfinished tasks are listed, {count} are announced")
    for name in names:
        check_name("task", name)
    return names


def _checksum(document: dict[str, Any]) -> str:
    canonical = json.dumps(document, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return "sha256:" + hashlib.sha256(canonical.encode()).hexdigest()
