"""What workers of a training need on a CPU: AReaL's real engine without a server, and a workflow that takes a moment."""

# pyright: reportMissingImports=false, reportAttributeAccessIssue=false, reportUntypedBaseClass=false

from __future__ import annotations

import asyncio
import os
import random
from concurrent.futures import Future
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from areal.api import LocalInfServerInfo, RolloutWorkflow
from areal.infra.remote_inf_engine import RemoteInfEngine
from areal.infra.staleness_manager import StalenessManager
from areal.infra.workflow_executor import WorkflowExecutor
from areal.utils import logging


class Episode(RolloutWorkflow):
    """Takes a random time; its trajectory has the number of the prompt."""

    def __init__(self, mean_s: float, fails: int = 0) -> None:
        self._mean_s, self._fails = mean_s, fails

    async def arun_episode(self, engine: Any, data: dict[str, Any]) -> dict[str, Any] | None:
        version = engine.get_version()
        await asyncio.sleep(random.expovariate(1 / self._mean_s))
        if self._fails and random.randrange(self._fails) == 0:
            raise RuntimeError("the engine is gone")
        x = int(data["x"])
        if x % 11 == 10:
            return None
        return {
            "input_ids": torch.full((1, 4), x, dtype=torch.int32),
            "attention_mask": torch.ones(1, 4, dtype=torch.bool),
            "rewards": torch.tensor([float(x % 128)], dtype=torch.bfloat16),
            "versions": torch.full((1, 4), version, dtype=torch.int32),
            "pids": torch.tensor([os.getpid()]),
        }


class Engine(RemoteInfEngine):
    """AReaL's, with its real executor; where it would call a server it calls nobody."""

    def __init__(self, config: Any) -> None:
        super().__init__(config, SimpleNamespace())
        #: Versions whose weights were loaded, and what was in them.
        self.loaded: list[tuple[int, int]] = []

    def launch_server(self, **_: Any) -> LocalInfServerInfo:
        return LocalInfServerInfo(host="127.0.0.1", port=1, process=None)

    def initialize(self, *_: Any, **__: Any) -> None:
        # Its own manager: where the broker's is installed in this process, that is for the training.
        manager = _OWN(self, 1, 1, 0)
        self.logger = logging.getLogger("Engine")
        self.workflow_executor = WorkflowExecutor(config=self.config, inference_engine=self, staleness_manager=manager)
        self.workflow_executor.initialize(logger=self.logger, train_data_parallel_size=1)
        self._initialized = True

    def update_weights_from_disk(self, meta: Any) -> Future[None]:
        weights = torch.load(Path(meta.path) / "model.pt")
        self.loaded.append((meta.version, int(weights["version"])))
        done: Future[None] = Future()
        done.set_result(None)
        return done

    def pause_generation(self) -> None: ...

    def continue_generation(self) -> None: ...

    def export_stats(self) -> dict[str, float]:
        return {}


#: AReaL's class, whatever is installed later.
_OWN = StalenessManager
