"""A dispatcher that starts what it is given at once, and what makes one."""

from __future__ import annotations

import threading
from typing import Any

from areal.infra.staleness_manager import StalenessManager


class BatchTaskDispatcher:
    def __init__(self, staleness_manager: Any) -> None:
        self.staleness_manager = staleness_manager
        self._input_cv = threading.Condition()
        self.started: list[object] = []

    def initialize(self, logger: Any = None) -> None: ...

    def submit_task_input(self, task_input: object) -> None:
        self.staleness_manager.on_rollout_enqueued()
        if self.staleness_manager.get_capacity() > 0:
            self.staleness_manager.on_rollout_submitted()
            self.started.append(task_input)

    def destroy(self) -> None: ...


class WorkflowExecutor:
    """Of one rank."""

    def __init__(
        self, inference_engine: Any, numbers: tuple[int, int, int], staleness_manager: Any = None, ranks: int = 1
    ) -> None:
        self.inference_engine = inference_engine
        self.max_concurrent_rollouts, self.consumer_batch_size, self.max_staleness = numbers
        self._staleness_manager, self._ranks = staleness_manager, ranks
        self.dispatcher: Any = None

    def _resolve_dp_world_size(self) -> int:
        return self._ranks

    def initialize(self, logger: Any = None, train_data_parallel_size: int | None = None) -> None:
        if self._staleness_manager is None:
            self._staleness_manager = StalenessManager(
                self.inference_engine, self.max_concurrent_rollouts, self.consumer_batch_size, self.max_staleness
            )
        self.dispatcher = BatchTaskDispatcher(self._staleness_manager)
        self.dispatcher.initialize(logger)

    def destroy(self) -> None:
        self.dispatcher.destroy()

    @property
    def staleness_manager(self) -> Any:
        return self._staleness_manager
