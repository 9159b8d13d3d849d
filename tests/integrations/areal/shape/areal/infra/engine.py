"""An inference engine that runs each workflow in a thread, and the scheduler that calls it."""

from __future__ import annotations

import asyncio
import importlib
import threading
from concurrent.futures import Future
from pathlib import Path
from types import SimpleNamespace
from typing import Any


class Engine:
    def __init__(self) -> None:
        self.initialized, self.version = True, 0
        self.goes_on = threading.Event()
        self.goes_on.set()
        self.loaded: list[tuple[int, str]] = []
        manager = SimpleNamespace(max_staleness=0, max_concurrent_rollouts=1)
        self.workflow_executor = SimpleNamespace(staleness_manager=manager)
        self._done: dict[int, Future[Any]] = {}

    def _resolve_workflow(self, workflow: str, kwargs: Any, group_size: int, proxy_addr: str | None = None) -> Any:
        module, _, name = workflow.rpartition(".")
        return getattr(importlib.import_module(module), name)(**kwargs)

    def submit(
        self, *, data: Any, workflow: Any, workflow_kwargs: Any = None, should_accept_fn: Any = None,
        group_size: int = 1, task_id: int,
    ) -> int:  # fmt: skip
        if isinstance(workflow, str):
            workflow = self._resolve_workflow(workflow, workflow_kwargs, group_size)
        done = self._done[task_id] = Future[Any]()

        def work() -> None:
            self.goes_on.wait()  # while the weights change, AReaL starts nothing
            try:
                done.set_result(asyncio.run(workflow.arun_episode(self, data)))
            except Exception:  # noqa: BLE001 - AReaL logs it, and has no trajectory
                done.set_result(None)

        threading.Thread(target=work, daemon=True).start()
        return task_id

    def wait_for_task(self, task_id: int, timeout: float) -> Any:
        return self._done.pop(task_id).result(timeout)

    def get_version(self) -> int:
        return self.version

    def set_version(self, version: int) -> None:
        self.version = version

    def update_weights_from_disk(self, meta: Any) -> Future[None]:
        self.loaded.append((self.version, Path(meta.path, "weights").read_text()))
        done = Future[None]()
        done.set_result(None)
        return done

    def pause_generation(self) -> None: ...

    def continue_generation(self) -> None: ...


class Scheduler:
    def __init__(self, engines: dict[str, Engine]) -> None:
        self.engines = engines

    async def async_call_engine(
        self, worker_id: str, method: str, engine_name: str, http_timeout: float = 0, **kwargs: Any
    ) -> Any:
        return getattr(self.engines[engine_name], method)(**kwargs)
