"""What a training log says of the batch that the trainer got last: numbers of the rollouts, and how long it waited."""

from __future__ import annotations

import time
from collections.abc import Generator, Sequence
from contextlib import contextmanager

from broker.values.rollout import Rollout


class LastBatch:
    """The numbers of the batch that the trainer got last.

    Attributes:
        numbers: by name; empty before the first batch.
    """

    def __init__(self) -> None:
        self.numbers: dict[str, float] = {}
        self._step = -1
        self._waited_s = 0.0

    @contextmanager
    def waiting(self) -> Generator[None]:
        """Measures a part of the wait for the next batch: a wait that timed out counts, too."""
        since = time.monotonic()
        try:
            yield
        finally:
            self._waited_s += time.monotonic() - since

    def recovered(self) -> None:
        """Notes that steps begin anew: the next batch of a step is another one."""
        self._step = -1

    def delivered(self, step: int, batch: Sequence[Rollout]) -> None:
        """Notes a batch at the end of the wait for it; one that is delivered again keeps the time of its first wait."""
        waited_s, self._waited_s = self._waited_s, 0.0
        if step == self._step:
            waited_s = self.numbers.get("wait_seconds", waited_s)
        self._step = step
        staleness = [rollout.staleness for rollout in batch]
        held = [sample.generation_s for rollout in batch for sample in rollout.samples]
        queued = [rollout.queued_s for rollout in batch]
        self.numbers = {
            "wait_seconds": waited_s,
            "staleness_mean": sum(staleness) / max(1, len(staleness)),
            "staleness_max": float(max(staleness, default=0)),
            **_mean("generation_seconds_mean", held),
            **_mean("queued_seconds_mean", queued),
        }


def _mean(name: str, seconds: Sequence[float | None]) -> dict[str, float]:
    known = [each for each in seconds if each is not None]
    return {name: sum(known) / len(known)} if known else {}
