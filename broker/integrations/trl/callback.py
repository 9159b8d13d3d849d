"""The callback of TRL's trainer that takes the broker's part of each checkpoint. Imports transformers."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from broker.integrations.trl.rollout_worker import BrokerRolloutWorker

    class TrainerCallback:
        """The base class of transformers."""

else:
    TrainerCallback = import_module("transformers").TrainerCallback


class BrokerCallback(TrainerCallback):
    """Tells the worker of the beginning, of checkpoints and of the end of training. Only the main process has a run.

    Args:
        worker: is told.
    """

    def __init__(self, worker: BrokerRolloutWorker) -> None:
        self._worker = worker

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Training begins, or goes on from a checkpoint."""
        if state.is_world_process_zero:
            self._worker.begin(args, state.global_step)

    def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """A checkpoint was written."""
        if state.is_world_process_zero:
            self._worker.save(args, state.global_step)

    def on_train_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Training has ended, and not by an error."""
        if state.is_world_process_zero:
            self._worker.finish()
