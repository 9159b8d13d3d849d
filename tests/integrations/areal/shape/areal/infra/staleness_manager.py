"""A manager that bounds nothing."""

from __future__ import annotations

from typing import Any


class StalenessManager:
    def __init__(
        self, version_provider: Any, max_concurrent_rollouts: int, consumer_batch_size: int, max_staleness: int
    ) -> None:
        self.numbers = (max_concurrent_rollouts, consumer_batch_size, max_staleness)
