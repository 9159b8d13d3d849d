"""A training with AReaL's real `PPOTrainer` whose rollouts are pulled: `python -m pull_child URL RUN FOLDER STEPS S OWN`.

OWN says whether the workers that the controller makes pull, too. It says a line of JSON for each step.
"""

# pyright: reportMissingImports=false, reportAttributeAccessIssue=false, reportUntypedBaseClass=false

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import ppo_child
import torch
from areal.trainer import rl_trainer
from areal.utils.recover import RecoverInfo
from forks import in_lives
from ppo_child import B, say
from pull_shape import Engine

from broker.integrations.areal import install

MEAN_S = 0.15


class Actor(ppo_child.Actor):
    """Saves its weights in a folder for each version, as a trainer with `weight_update_mode=disk` does."""

    def update_weights(self, meta: Any) -> None:
        Path(meta.path).mkdir(parents=True, exist_ok=True)
        torch.save({"version": meta.version}, Path(meta.path) / "model.pt")
        asyncio.run(self.rollout.update_weights_from_disk(meta))

    def ppo_update(self, batch: list[dict[str, Any]]) -> None:
        say(
            step=self.version,
            x=[int(trajectory["input_ids"][0, 0]) for trajectory in batch],
            same=all(int(t["rewards"].float()) == int(t["input_ids"][0, 0]) % 128 for t in batch),
            oldest=min(int(trajectory["versions"].min()) for trajectory in batch),
            pids=sorted({int(trajectory["pids"]) for trajectory in batch}),
        )


class Scheduler(ppo_child.Scheduler):
    """Its engines are AReaL's, in this process; those of training do not pull unless they are told to."""

    pulls = False

    async def create_engine(self, worker_id: str, engine: str, engine_name: str, config: Any) -> None:
        self._engines[engine_name] = Engine(config)

    async def async_call_engine(
        self, worker_id: str, method: str, engine_name: str, *args: Any, http_timeout: float = 0, **kwargs: Any
    ) -> Any:
        if method == "submit" and engine_name.startswith("rollout/") and not self.pulls:
            return kwargs["task_id"]
        return await super().async_call_engine(worker_id, method, engine_name, *args, **kwargs)


def mark_dumps(marker: Path) -> None:
    """Keeps a file while AReaL writes its part of a checkpoint, which is damaged if it is killed then."""
    dump = RecoverInfo.dump

    def marked(info: Any, folder: str) -> None:
        marker.touch()
        dump(info, folder)
        marker.unlink()

    RecoverInfo.dump = marked


def main(url: str, run: str, folder: str, steps: str, staleness: str, own: str) -> None:
    config = ppo_child.config_of(folder, int(steps), int(staleness))
    install(url, run, lease_s=1.5, pull=True)
    Scheduler.pulls = own == "1"
    mark_dumps(Path(folder) / "dumping")
    rl_trainer.load_hf_processor_and_tokenizer = lambda *_, **__: (None, None)
    rl_trainer.PPOTrainer._init_scheduler = lambda _: Scheduler()
    rl_trainer.PPOTrainer._create_train_engine = lambda *_: Actor()
    rl_trainer.SGLangConfig.build_args = staticmethod(lambda **_: {})
    data = [{"x": float(i)} for i in range(B * (int(steps) + 40))]
    with rl_trainer.PPOTrainer(config, train_dataset=data, valid_dataset=data[:B]) as trainer:
        say(ready=trainer.rollout.get_version())
        trainer.train(
            workflow="pull_shape.Episode", workflow_kwargs={"mean_s": MEAN_S},
            eval_workflow="pull_shape.Episode", eval_workflow_kwargs={"mean_s": 0.01},
        )  # fmt: skip
    say(done=True)


if __name__ == "__main__":
    in_lives(main)
