"""The config of a run in the reference model: the numbers that the protocol depends on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, slots=True)
class Config:
    """The numbers of a run that the protocol depends on (times in ms)."""

    consumer_batch_size: int = 2
    max_staleness: int | None = 0
    max_concurrent_rollouts: int = 4
    max_concurrent_samples: int | None = None
    staleness_limit: int | None = None
    on_stale: Literal["requeue", "drop", "keep", "wait"] = "requeue"
    max_wait_ms: int = 600_000
    max_attempts: int = 3
    max_stale_requeues: int = 10
    attempt_timeout_ms: int = 0
    retry_backoff_ms: int = 1_000
    retry_backoff_max_ms: int = 60_000
    retention_steps: int = 100
    max_finished: int = 10_000
    keep_checkpoints: int = 2
    halt_after_failures: int = 64
    quarantine_after: int = 16

    @property
    def limit(self) -> int | None:
        """D of docs/protocol.md, Notation."""
        if self.max_staleness is None:
            return None
        return max(self.max_staleness, 4 * self.max_staleness if self.staleness_limit is None else self.staleness_limit)

    @property
    def waits(self) -> bool:
        """Whether batches wait for what would become too old."""
        return self.on_stale == "wait" and self.limit is not None

    @property
    def bounds(self) -> tuple[int, int | None, int | None, bool]:
        """What decides how many tasks may be under way, and for how long."""
        return (self.batch, self.max_staleness, self.limit, self.waits)

    @property
    def batch(self) -> int:
        """B of docs/protocol.md, Notation."""
        return max(1, self.consumer_batch_size)

    @property
    def concurrent(self) -> int:
        """C of docs/protocol.md, Notation."""
        return max(1, self.max_concurrent_rollouts)
