"""A training with AReaL's real `PPOTrainer` on a CPU: `python -m ppo_child URL RUN FOLDER STEPS S`.

The trainer, its controllers, dispatchers and recovery are AReaL's. Ours are: a scheduler that calls engines in this
process, an engine that makes a trajectory after a moment, and an actor whose model is one linear layer. It says a line of
JSON for each step.
"""

# pyright: reportMissingImports=false, reportAttributeAccessIssue=false, reportUntypedBaseClass=false

from __future__ import annotations

import asyncio
import json
import random
import sys
import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import requests
import torch
from areal.api import LocalInfServerInfo, RolloutWorkflow, Worker
from areal.api.cli_args import (
    ClusterSpecConfig,
    EvaluatorConfig,
    GenerationHyperparameters,
    InferenceEngineConfig,
    NameResolveConfig,
    PPOActorConfig,
    PPOConfig,
    RecoverConfig,
    SaverConfig,
    SchedulingSpec,
    StatsLoggerConfig,
    TrainDatasetConfig,
    ValidDatasetConfig,
)
from areal.trainer import rl_trainer
from forks import in_lives

from broker.integrations.areal import install

B, C, EACH_S = 4, 6, 0.03


def say(**line: Any) -> None:
    sys.stdout.write("\n@" + json.dumps(line) + "\n")
    sys.stdout.flush()


class Workflow(RolloutWorkflow):
    """Named by its path only: the engine makes the trajectories."""

    async def arun_episode(self, engine: Any, data: dict[str, Any]) -> None: ...


class Engine:
    """What a worker of AReaL's runs, for one rank."""

    def __init__(self) -> None:
        self.version = 0
        self.done: dict[int, dict[str, Any]] = {}

    def launch_server(self, **_: Any) -> LocalInfServerInfo:
        return LocalInfServerInfo(host="127.0.0.1", port=1, process=None)

    def submit(self, *, task_id: int, callback_addr: str, data: dict[str, Any], **_: Any) -> int:
        version = self.version

        def finish() -> None:
            self.done[task_id] = {
                "input_ids": torch.ones(1, 4),
                "attention_mask": torch.ones(1, 4),
                "rewards": torch.tensor([data["x"]]),
                "versions": torch.full((1, 4), version),
            }
            requests.post(callback_addr, json={"task_id": task_id}, timeout=30)

        timer = threading.Timer(random.expovariate(1 / EACH_S), finish)
        timer.daemon = True
        timer.start()
        return task_id

    def wait_for_task(self, *, task_id: int, **_: Any) -> dict[str, Any] | None:
        return self.done.pop(task_id, None)

    def set_version(self, version: int) -> None:
        self.version = version

    def __getattr__(self, name: str) -> Any:
        return lambda *_, **__: {} if name == "export_stats" else None


class Scheduler:
    """Calls engines in this process."""

    def __init__(self) -> None:
        self._engines: dict[str, Engine] = {}
        self._roles: dict[str, list[Worker]] = {}

    def create_workers(self, job: Any) -> list[str]:
        ids = [f"{job.role}/{i}" for i in range(job.replicas)]
        self._roles[job.role] = [
            Worker(id=name, ip="127.0.0.1", worker_ports=["1"], engine_ports=["1"]) for name in ids
        ]
        return ids

    def get_workers(self, role: str, timeout: float | None = None) -> list[Worker]:
        return self._roles[role]

    def delete_workers(self, role: str) -> None:
        self._roles.pop(role)

    async def create_engine(self, worker_id: str, engine: str, engine_name: str, config: Any) -> None:
        self._engines[engine_name] = Engine()

    async def async_call_engine(
        self, worker_id: str, method: str, engine_name: str, *args: Any, http_timeout: float = 0, **kwargs: Any
    ) -> Any:
        await asyncio.sleep(0)
        if method == "set_version":
            return self._engines[engine_name].set_version(*args, **kwargs)
        return getattr(self._engines[engine_name], method)(*args, **kwargs)


class Actor:
    """Trains one linear layer."""

    data_parallel_rank, data_parallel_world_size = 0, 1
    #: Release 1.0 waits for the ranks of this group after each step, also where there is one process.
    cpu_group = torch.distributed.GroupMember.NON_GROUP_MEMBER

    def __init__(self) -> None:
        self.model = torch.nn.Linear(1, 1)
        self.optimizer = torch.optim.SGD(self.model.parameters(), lr=0.01)
        self.rollout: Any = None
        self.version = 0

    def connect_engine(self, rollout: Any, meta: Any) -> None:
        self.rollout = rollout

    def prepare_batch(self, dataloader: Any, **kwargs: Any) -> list[dict[str, Any]]:
        return self.rollout.prepare_batch(dataloader, **kwargs)

    def compute_advantages(self, batch: list[dict[str, Any]]) -> list[dict[str, Any]]:
        return batch

    def ppo_update(self, batch: list[dict[str, Any]]) -> None:
        for trajectory in batch:
            loss = (self.model(trajectory["rewards"].reshape(1, 1).float()) - 1).square().mean()
            loss.backward()
        self.optimizer.step()
        self.optimizer.zero_grad()
        say(
            step=self.version,
            oldest=min(int(trajectory["versions"].min()) for trajectory in batch),
            size=len(batch),
            capacity=self.rollout.staleness_manager.get_capacity(),
        )

    def set_version(self, version: int) -> None:
        self.version = version

    def save(self, meta: Any) -> None:
        Path(meta.path).mkdir(parents=True, exist_ok=True)
        # Whole or not at all: the test kills this process at any time.
        torch.save(self.model.state_dict(), Path(meta.path) / "model.new")
        (Path(meta.path) / "model.new").replace(Path(meta.path) / "model.pt")

    def load(self, meta: Any) -> None:
        self.model.load_state_dict(torch.load(Path(meta.path) / "model.pt"))

    def get_device_stats(self) -> Any:
        return SimpleNamespace(log=lambda _: None)

    def export_stats(self) -> dict[str, float]:
        return {}

    def is_data_parallel_head(self) -> bool:
        return True

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)
        return lambda *_, **__: None


def config_of(folder: str, steps: int, staleness: int) -> Any:
    names = {"experiment_name": "shape", "trial_name": "cpu"}
    paths = {**names, "fileroot": folder}
    spec = (SchedulingSpec(cpu=1, gpu=0, mem=1),)
    every_step = {"freq_epochs": None, "freq_steps": 1, "freq_secs": None}
    never = {"freq_epochs": None, "freq_steps": None, "freq_secs": None}
    evaluate = {"freq_epochs": None, "freq_steps": 5, "freq_secs": None}
    return PPOConfig(
        **names,
        total_train_epochs=1,
        total_train_steps=steps,
        tokenizer_path="",
        cluster=ClusterSpecConfig(
            fileroot=folder, name_resolve=NameResolveConfig(type="nfs", nfs_record_root=f"{folder}/names")
        ),
        actor=PPOActorConfig(
            **names, path="", backend="fsdp:d1", weight_update_mode="disk", scheduling_spec=spec, kl_ctl=0.0
        ),
        rollout=InferenceEngineConfig(
            **names,
            backend="sglang:d2",
            max_concurrent_rollouts=C,
            consumer_batch_size=B,
            scheduling_spec=spec,
            max_head_offpolicyness=staleness,
            request_timeout=60,
        ),
        gconfig=GenerationHyperparameters(max_new_tokens=4, n_samples=1),
        train_dataset=TrainDatasetConfig(path="", type="rl", batch_size=B, shuffle=False, num_workers=0),
        valid_dataset=ValidDatasetConfig(path="", type="rl", batch_size=B, shuffle=False, num_workers=0),
        saver=SaverConfig(**paths, **never),
        evaluator=EvaluatorConfig(**paths, **evaluate),
        recover=RecoverConfig(**paths, **every_step, mode="auto"),
        stats_logger=StatsLoggerConfig(**paths),
    )


def main(url: str, run: str, folder: str, steps: str, staleness: str) -> None:
    install(url, run, lease_s=1.5)
    config = config_of(folder, int(steps), int(staleness))
    rl_trainer.load_hf_processor_and_tokenizer = lambda *_, **__: (None, None)
    rl_trainer.PPOTrainer._init_scheduler = lambda _: Scheduler()
    rl_trainer.PPOTrainer._create_train_engine = lambda *_: Actor()
    rl_trainer.SGLangConfig.build_args = staticmethod(lambda **_: {})
    data = [{"x": float(i % 7)} for i in range(B * int(steps))]
    workflow = "ppo_child.Workflow"
    with rl_trainer.PPOTrainer(config, train_dataset=data, valid_dataset=data[:B]) as trainer:
        say(ready=trainer.rollout.get_version(), capacity=trainer.rollout.get_capacity())
        trainer.train(workflow=workflow, eval_workflow=workflow)
    say(done=True)


if __name__ == "__main__":
    in_lives(main)
