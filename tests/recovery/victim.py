"""A trainer in a process of its own that kills itself with SIGKILL at a given point.

python -m tests.recovery.victim URL RUN PATH OPERATION WHERE NOW, where WHERE is `<k>:<moment>` for the k-th call to the
server, or `fsync:<k>` or `replace:<k>` for the k-th of those.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from broker import RunConfig, Task, Trainer
from broker.recovery import recover as flows
from tests.recovery.interruptions import MOMENTS, kill

CONFIG = RunConfig(consumer_batch_size=2, max_staleness=2, max_concurrent_rollouts=8, keep_checkpoints=2)


def run_tasks() -> list[Task]:
    """Singles and groups."""
    return [Task(id=f"t{i}", payload={"n": i}, samples=3 if i % 5 == 4 else 1) for i in range(18)]


def _advance(trainer: Trainer, path: Path) -> None:
    if trainer.version not in trainer._state.digests:
        trainer.next_batch(timeout=5)
    trainer.advance(b"blob")


OPERATIONS: dict[str, Callable[[Trainer, Path], Any]] = {
    "checkpoint": lambda trainer, path: trainer.checkpoint(path, weights=trainer.settle()),
    "full checkpoint": lambda trainer, path: trainer.checkpoint(path, full=True, weights=trainer.settle()),
    "recover": lambda trainer, path: trainer.recover(path),
    "advance": _advance,
}


def _kill_at_file_call(name: str, at: int) -> None:
    real, count = getattr(os, name), [0]

    def mortal(*args: Any, **options: Any) -> Any:
        count[0] += 1
        if count[0] == at:
            os.kill(os.getpid(), signal.SIGKILL)
        return real(*args, **options)

    setattr(os, name, mortal)


def main(url: str, run: str, path: str, operation: str, where: str, now: str) -> None:
    """Opens the run, and does the operation up to its death."""
    flows.SWEEP_TASKS = 6
    what, _, which = where.partition(":")
    with Trainer(url, run, clock=lambda: int(now)) as trainer:
        if operation == "advance":
            trainer.next_batch(timeout=5)
        if which in MOMENTS:
            with kill(trainer, int(what), which, sigkill=True):
                OPERATIONS[operation](trainer, Path(path))
        else:
            _kill_at_file_call(what, int(which))
            OPERATIONS[operation](trainer, Path(path))


if __name__ == "__main__":
    main(*sys.argv[1:])
