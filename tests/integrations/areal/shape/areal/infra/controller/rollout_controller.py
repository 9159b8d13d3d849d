"""A controller that makes its manager from the name that its module binds."""

from __future__ import annotations

from typing import Any

from areal.infra.staleness_manager import StalenessManager
from areal.infra.workflow_executor import BatchTaskDispatcher


class RolloutController:
    def __init__(self, numbers: tuple[int, int, int]) -> None:
        self._numbers, self._worker_role = numbers, ""
        self.staleness_manager: Any = None
        self.dispatcher: Any = None
        self.version = 0

    def get_version(self) -> int:
        return self.version

    def initialize(self, role: str) -> None:
        self._worker_role = role
        concurrent, batch, staleness = self._numbers
        self.staleness_manager = StalenessManager(
            version_provider=self,
            max_concurrent_rollouts=concurrent,
            consumer_batch_size=batch,
            max_staleness=staleness,
        )
        self.dispatcher = BatchTaskDispatcher(self.staleness_manager)
        self.dispatcher.initialize()

    def destroy(self) -> None:
        self.dispatcher.destroy()


class SecondController(RolloutController):
    """Makes it from the name that is in its first module at the time."""

    def initialize(self, role: str) -> None:
        from areal.infra.staleness_manager import StalenessManager as Late

        self._worker_role = role
        self.staleness_manager = Late(self, *self._numbers)
        self.dispatcher = BatchTaskDispatcher(self.staleness_manager)
        self.dispatcher.initialize()
