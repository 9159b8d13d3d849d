"""A trainer that stops at a chosen point of writing a checkpoint, as a frozen process does, and goes on later.

python -m tests.recovery.frozen URL RUN PATH POINT NOW [full]: a process that opens the run, makes a checkpoint and stops
itself with SIGSTOP at that point. It prints the outcome.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

from broker import Trainer
from broker.errors import BrokerError
from broker.recovery import checkpoint, checkpoint_files
from broker.recovery import recover as recovery
from broker.recovery import tasks_file as checkpoint_tasks

#: Points of `checkpoint()`, in order; each is right before the thing that it names.
TASKS_POINT = "before the tasks are in their place"
POINTS = (
    "in the scan",
    TASKS_POINT,
    "before the rename",
    "before the commit",
    "before the link",
    "before the link is in its place",
    "before the deletion",
)


def _before(module: Any, name: str, stop: Callable[[], None], at: int = 1) -> Any:
    """Patches a function: `stop` is called once, before the function's at-th call."""
    real, calls = getattr(module, name), [0]

    def stopping(*args: Any, **options: Any) -> Any:
        calls[0] += 1
        if calls[0] == at:
            stop()
        return real(*args, **options)

    return mock.patch.object(module, name, stopping)


@contextmanager
def freeze_at(point: str, meanwhile: Callable[[], None]) -> Generator[None]:
    """Within the block, the next checkpoint calls `meanwhile` once at that point."""
    patches: list[Any] = []

    def stop() -> None:
        for patch in patches:
            patch.stop()
        meanwhile()

    if point == "in the scan":
        patches.append(_before(recovery, "_scan", stop))
    elif point == TASKS_POINT:
        patches.append(_before(checkpoint_tasks, "put_in_place", stop))
    elif point == "before the rename":
        patches.append(_before(checkpoint, "put_in_place", stop))
    elif point == "before the commit":
        patches.append(_before(recovery.recovery, "commit", stop))
    elif point == "before the link":
        patches.append(_before(recovery, "point_to", stop))
    elif point == "before the link is in its place":
        patches.append(_before(checkpoint_files, "_put_in_place", stop))
    else:
        patches.append(_before(recovery, "tidy", stop))
    for patch in patches:
        patch.start()
    try:
        yield
    finally:
        mock.patch.stopall()


def main(url: str, run: str, path: str, point: str, now: str, full: str = "") -> None:
    """Makes the checkpoint, and stops on the way."""
    with (
        Trainer(url, run, clock=lambda: int(now)) as trainer,
        freeze_at(point, lambda: os.kill(os.getpid(), signal.SIGSTOP)),
    ):
        try:
            made = trainer.checkpoint(Path(path), full=full == "full")
        except BrokerError as error:
            print(type(error).__name__)  # noqa: T201 - read by the test
        else:
            print(f"version {made.version}")  # noqa: T201


if __name__ == "__main__":
    main(*sys.argv[1:])
