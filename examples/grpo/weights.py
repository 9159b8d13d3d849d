"""Weights in a folder that the trainer and the generators share: one file for each policy, whole or not there."""

# pyright: basic, reportMissingImports=false

from pathlib import Path
from typing import Any

import torch


def write(path: Path, state: dict[str, Any]) -> bytes:
    """Writes a state, so that no reader ever sees half of it.

    Returns:
        The path.
    """
    whole = path.with_suffix(".tmp")
    torch.save(state, whole)
    whole.replace(path)
    return str(path).encode()


def read(path: str | Path, device: str) -> dict[str, Any]:
    """What was written there.

    Raises:
        FileNotFoundError: it was deleted.
    """
    return torch.load(path, map_location=device, weights_only=True)


def forget(folder: str, before: int) -> None:
    """Deletes the weights and states of versions before one."""
    for path in Path(folder).glob("*.v*.pt"):
        if int(path.suffixes[-2].removeprefix(".v")) < before:
            path.unlink(missing_ok=True)
