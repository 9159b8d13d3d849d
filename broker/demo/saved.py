"""The demo's training checkpoint: the learner's state beside the broker's file.

The learner is written first, under its epoch and version, which no other trainer writes. The broker's file, written
last and whole or not at all, says which of them counts: a trainer that dies in between goes on from the pair before.
"""

from __future__ import annotations

import io
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from broker.demo.learner import Learner
from broker.recovery.checkpoint import read_checkpoint, write_atomically
from broker.recovery.checkpoint_files import members

if TYPE_CHECKING:
    from broker import Trainer


def broker_file(directory: Path) -> Path:
    """What the broker's parts of the checkpoints in a directory are called."""
    return directory / "broker.json"


class Savings:
    """A directory with checkpoints of one run.

    Args:
        directory: made if it is not there.

    Attributes:
        broker_file: what the broker's parts are called.
    """

    def __init__(self, directory: Path) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self._directory = directory
        self.broker_file = broker_file(directory)

    def save(self, trainer: Trainer, learner: Learner) -> None:
        """Writes both parts; the checkpoint counts from then on. Deletes what belongs to none that is kept."""
        buffer = io.BytesIO()
        arrays: dict[str, Any] = dict(learner.state())
        np.savez(buffer, **arrays)
        write_atomically(self._learner_file(trainer.epoch, trainer.version), [buffer.getvalue()])
        trainer.checkpoint(self.broker_file)
        oldest = min(member.version for member in members(self.broker_file))
        for file in self._directory.glob("learner-*.npz"):
            version = re.fullmatch(r"learner-\d+-\w+-v(\d+)\.npz", file.name)
            if version is not None and int(version[1]) < oldest:
                file.unlink(missing_ok=True)

    def recover(self, trainer: Trainer, learner: Learner) -> list[str]:
        """Takes run and learner to the newest checkpoint, or to version 0 when there is none.

        Returns:
            The tasks that the server has lost: to be enqueued again.
        """
        report = trainer.recover(self.broker_file, missing_ok=True)
        if report.source is not None:
            made = read_checkpoint(Path(report.source))
            with np.load(self._learner_file(made.epoch, made.version), allow_pickle=False) as state:
                learner.restore(state)
        return report.missing

    def _learner_file(self, epoch: str, version: int) -> Path:
        return self._directory / f"learner-{epoch.replace('.', '-')}-v{version}.npz"
