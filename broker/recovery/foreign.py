"""Versions that the checkpoint files of other trainers name: AReaL, Hugging Face, Megatron and verl."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from broker.errors import CheckpointError
from broker.recovery.checkpoint import MAX_VERSION

_MEGATRON = "latest_checkpointed_iteration.txt"
_CANNOT_TELL = "which tasks were finished at that version, and where the data loader was"


@dataclass(frozen=True, slots=True)
class ForeignCheckpoint:
    """The version that another trainer's file names.

    Args:
        version: the policy's version.
        kind: whose file it is, in words.
        cannot_tell: what such a file does not say.
    """

    version: int
    kind: str
    cannot_tell: str = _CANNOT_TELL


def foreign_checkpoint(path: Path) -> ForeignCheckpoint | None:
    """Reads another trainer's file, or its folder; None for a file of another name.

    Raises:
        CheckpointError: the file cannot be used; says why.
    """
    if path.is_dir():
        for name in ("step_info.json", "recover_info/step_info.json", "trainer_state.json", _MEGATRON):
            if (path / name).is_file():
                return foreign_checkpoint(path / name)
        raise CheckpointError(
            path=str(path), problem=f"is a directory without step_info.json, trainer_state.json or {_MEGATRON}"
        )
    if path.name == "step_info.json":
        return ForeignCheckpoint(_step(path, "global_step") + 1, "AReaL's recover_info (version = global_step + 1)")
    if path.name == "trainer_state.json":
        step = _step(path, "global_step")
        return ForeignCheckpoint(step, "Hugging Face's trainer_state.json (version = global_step)")
    if path.name == _MEGATRON:
        word = _read(path).strip()
        if not (word.isascii() and word.isdecimal() and int(word) <= MAX_VERSION):
            raise CheckpointError(path=str(path), problem=f"does not hold an iteration, but {word[:40]!r}")
        return ForeignCheckpoint(int(word), f"Megatron's or verl's {_MEGATRON} (version = iteration)")
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
