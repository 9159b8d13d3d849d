"""Workers whose rollouts contain their origin."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager

import numpy as np

from broker import Attempt, Worker
from tests.threads import InThread


def generate(attempt: Attempt) -> dict[str, object]:
    """A rollout whose number of tokens follows from the payload and the slot."""
    length = int(attempt.payload) % 5 + attempt.slot
    return {
        "tokens": np.arange(length, dtype=np.int32),
        "logprobs": [-0.5] * length,
        "reward": float(attempt.slot),
        "text": f"{attempt.task}#{attempt.slot}",
    }


@contextmanager
def working(url: str, run: str) -> Generator[None]:
    """Runs a worker during the block; the run must exist."""
    with Worker(url, run) as worker:
        running = InThread(lambda: worker.run(generate))
        try:
            yield
        finally:
            worker.stop()
            running.result()
