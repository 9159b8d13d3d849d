"""Where a recovery may take its version from: our checkpoints, and what other trainers leave behind."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from broker.arguments import path_of
from broker.checkpoint import MAX_VERSION, Checkpoint, read_checkpoint, reason_of
from broker.checkpoint_tasks import verify_tasks_file
from broker.errors import BadArgument, CheckpointError

_MEGATRON = "latest_checkpointed_iteration.txt"
_CANNOT_TELL = "which tasks were finished at that version, and where the data loader was"


@dataclass(frozen=True, slots=True)
class Foreign:
    """A version that another trainer's file names.

    Args:
        version: the policy's version.
        kind: whose file it is, in words.
        cannot_tell: what such a file does not say.
    """

    version: int
    kind: str
    cannot_tell: str = _CANNOT_TELL


def load_source(source: Checkpoint | str | os.PathLike[str], run: str) -> Checkpoint | Foreign:
    """Reads a checkpoint, ours or what another trainer left behind.

    AReaL's `recover_info/`, Hugging Face's `trainer_state.json`, Megatron's or verl's
    `latest_checkpointed_iteration.txt`.

    Raises:
        CheckpointError: it cannot be used; says why.
    """
    if isinstance(source, Checkpoint):
        made = source
    else:
        path = path_of("source", source)
        try:
            foreign = _foreign(path)
        except (OSError, ValueError) as error:
            raise CheckpointError(path=str(path), problem=f"could not be read: {reason_of(error)}") from error
        if foreign is not None:
            return foreign
        made = read_checkpoint(path)
    if made.run != run:
        raise CheckpointError(path=str(made.path), problem=f"is of run {made.run}, not of {run}")
    if made.tasks_file is not None and made.tasks_path is not None:
        verify_tasks_file(made.tasks_path, made.tasks_file)
    return made


def exists(source: Checkpoint | str | os.PathLike[str]) -> bool:
    """Whether there is anything at that place."""
    if isinstance(source, Checkpoint):
        return True
    try:
        path_of("source", source).stat()
    except FileNotFoundError:
        return False
    except (OSError, ValueError) as error:
        raise CheckpointError(path=str(source), problem=f"could not be read: {reason_of(error)}") from error
    return True


def check_in_flight(in_flight: str) -> str:
    """`keep` or `requeue`; raises BadArgument for anything else."""
    if in_flight not in ("keep", "requeue"):
        raise BadArgument(argument="in_flight", given=in_flight, expected="keep or requeue")
    return in_flight


def _foreign(path: Path) -> Foreign | None:
    if path.is_dir():
        for name in ("step_info.json", "recover_info/step_info.json", "trainer_state.json", _MEGATRON):
            if (path / name).is_file():
                return _foreign(path / name)
        raise CheckpointError(
            path=str(path), problem=f"is a directory without step_info.json, trainer_state.json or {_MEGATRON}"
        )
    if path.name == "step_info.json":
        return Foreign(_step(path, "global_step") + 1, "AReaL's recover_info (version = global_step + 1)")
    if path.name == "trainer_state.json":
        return Foreign(_step(path, "global_step"), "Hugging Face's trainer_state.json (version = global_step)")
    if path.name == _MEGATRON:
        word = _read(path).strip()
        if not (word.isascii() and word.isdecimal() and int(word) <= MAX_VERSION):
            raise CheckpointError(path=str(path), problem=f"does not hold an iteration, but {word[:40]!r}")
        return Foreign(int(word), f"Megatron's or verl's {_MEGATRON} (version = iteration)")
    return None


def _read(path: Path) -> str:
    try:
        if path.stat().st_size > 64 * 1024 * 1024:
            raise CheckpointError(path=str(path), problem="is too large to be what its name says")
        return path.read_text()
    except OSError as error:
        raise CheckpointError(path=str(path), problem=f"could not be read: {error.strerror or error}") from error
    except UnicodeDecodeError as error:
        raise CheckpointError(path=str(path), problem="is not text") from error


def _step(path: Path, name: str) -> int:
    try:
        document: Any = json.loads(_read(path))
    except (ValueError, RecursionError) as error:
        raise CheckpointError(path=str(path), problem="is not whole, or not JSON") from error
    value = cast("dict[str, Any]", document).get(name) if isinstance(document, dict) else None
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value < MAX_VERSION:
        raise CheckpointError(path=str(path), problem=f"has no {name} that is a number of steps")
    return value
