"""The demo's training checkpoint: the learner's state beside the broker's file.

The learner is written first, under its version. The broker's file, written last and whole or not at all, says which
version counts: a trainer that dies in between goes on from the pair before.
"""

from __future__ import annotations

import io
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from broker.checkpoint import read_checkpoint, write_atomically
from broker.demo.learner import Learner

if TYPE_CHECKING:
    from broker import Trainer


def broker_file(directory: Path) -> Path:
    """The broker's part of the newest checkpoint in a directory."""
    return directory / "broker.json"


class Savings:
    """A directory with checkpoints of one run.

    Args:
        directory: made if it is not there.

    Attributes:
        broker_file: the broker's part of the newest one.
    """

    def __init__(self, directory: Path) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self._directory = directory
        self.broker_file = broker_file(directory)

    def save(self, trainer: Trainer, learner: Learner) -> None:
        """Writes both parts; the checkpoint counts from then on."""
        before = read_checkpoint(self.broker_file).version if self.broker_file.exists() else None
        version = trainer.version
        buffer = io.BytesIO()
        arrays: dict[str, Any] = dict(learner.state())
        np.savez(buffer, **arrays)
        write_atomically(self._learner_file(version), [buffer.getvalue()])
        trainer.checkpoint(self.broker_file)
        if before is not None and before != version:
            self._learner_file(before).unlink(missing_ok=True)

    def recover(self, trainer: Trainer, learner: Learner) -> list[str]:
        """Takes run and learner to the newest checkpoint, or to version 0 when there is none.

        Returns:
            The tasks that the server has lost: to be enqueued again.
        """
        report = trainer.recover(self.broker_file, missing_ok=True)
        if report.version_to > 0:
            with np.load(self._learner_file(report.version_to), allow_pickle=False) as state:
                learner.restore(state)
        return report.missing

    def _learner_file(self, version: int) -> Path:
        return self._directory / f"learner-{version}.npz"
