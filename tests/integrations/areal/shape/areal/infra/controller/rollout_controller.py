"""A controller that makes its manager from the name that its module binds."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from areal.infra.engine import Engine, Scheduler
from areal.infra.staleness_manager import StalenessManager
from areal.infra.workflow_executor import BatchTaskDispatcher


class RolloutController:
    def __init__(self, numbers: tuple[int, int, int]) -> None:
        self._numbers, self._worker_role = numbers, ""
        self.staleness_manager: Any = None
        self.dispatcher: Any = None
        self.version = 0
        self.engines = {"rollout/0": Engine()}
        self.scheduler = Scheduler(self.engines)
        self.workers = [SimpleNamespace(id="rollout/0")]
        self.config = SimpleNamespace(request_timeout=10)
        self._proxy_started = False

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
        for engine in self.engines.values():
            engine.initialized = False

    def _engine_name(self, rank: int) -> str:
        return f"{self._worker_role}/{rank}"

    async def _collective_rpc_async(self, method: str, **kwargs: Any) -> None:
        for engine in self.engines.values():
            getattr(engine, method)(**kwargs)

    def _resolve_workflow_str(self, workflow: str) -> str:
        return workflow

    def _resolve_should_accept_fn(self, should_accept_fn: str | None) -> str | None:
        return should_accept_fn

    def prepare_batch(
        self, dataloader: Any, workflow: str, workflow_kwargs: Any = None, should_accept_fn: Any = None,
        group_size: int = 1, dynamic_bs: bool = False,
    ) -> list[Any]:  # fmt: skip
        return ["pushed"]

    def submit(self, data: Any, workflow: Any = None) -> int:
        return 7

    def wait(self, count: int) -> list[Any]:
        return ["pushed"] * count

    def rollout_batch(self, data: Any, workflow: Any = None) -> list[Any]:
        return ["pushed"]

    async def update_weights_from_disk(self, meta: Any) -> None:
        raise AssertionError("the folder would be deleted")

    def set_version(self, version: int) -> None:
        self.version = version
        for engine in self.engines.values():
            engine.set_version(version)


class SecondController(RolloutController):
    """Makes it from the name that is in its first module at the time."""

    def initialize(self, role: str) -> None:
        from areal.infra.staleness_manager import StalenessManager as Late

        self._worker_role = role
        self.staleness_manager = Late(self, *self._numbers)
        self.dispatcher = BatchTaskDispatcher(self.staleness_manager)
        self.dispatcher.initialize()
