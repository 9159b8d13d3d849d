"""The trainer: a supervised warm-up, then GRPO on what the generators submit."""

# pyright: basic, reportMissingImports=false

import argparse
import json
import random
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

import torch

from broker import Rollout, RunConfig, Task, Trainer
from broker.integrations.torch import pad
from examples.grpo import weights
from examples.grpo.loss import batch_of, decoupled_ppo_loss
from examples.grpo.model import SIZES, Transformer, decode, encode
from examples.grpo.problems import PROBLEMS, Problems

#: Steps between two checkpoints.
EVERY = 5


def warm_up(model: Transformer, problems: Problems, enough: float, seed: int, device: str) -> None:
    """Supervised steps, until a share of `enough` of the model's own answers is right: it knows the form, not more."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    rng = random.Random(seed)
    for step in range(1_000):
        if step % 5 == 0:
            results = model.sample([problems.prompt(rng) for _ in range(128)], problems.answer)
            if sum(problems.reward(decode(result["tokens"].tolist())) for result in results) >= enough * len(results):
                return
        prompts = [problems.prompt(rng) for _ in range(64)]
        texts = [torch.tensor(encode(prompt + problems.solution(prompt))) for prompt in prompts]
        tokens, mask = (tensor.to(device) for tensor in pad(texts))
        loss = (-model.log_probabilities(tokens) * mask[:, 1:]).sum() / mask[:, 1:].sum()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()


def tasks(problems: Problems, seed: int) -> Iterator[Task]:
    """Problems without end; the i-th is the same in each program."""
    number = 0
    while True:
        yield Task(id=f"problem/{number}", payload=problems.prompt(random.Random(f"{seed}/{number}")), samples=8)
        number += 1


class Learner:
    """The model in training: what a step does to it, and where it is kept.

    Args:
        options: of the command.
    """

    def __init__(self, options: argparse.Namespace) -> None:
        torch.manual_seed(options.seed)
        self.options, self.folder = options, Path(options.folder)
        self.model = Transformer(SIZES[options.size]).to(options.device)
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=options.learning_rate, weight_decay=0.0)
        self.life = uuid.uuid4().hex[:8]  # so that a trainer that starts again never writes a file of the one before

    def publish(self, version: int) -> bytes:
        """What generators need of a version: the weights."""
        return weights.write(self.folder / f"weights.{self.life}.v{version}.pt", self.model.state_dict())

    def save(self, version: int) -> None:
        """What this program needs to go on. Older files are kept as long as a rollout may need them."""
        state = {"model": self.model.state_dict(), "optimizer": self.optimizer.state_dict()}
        weights.write(self.folder / f"state.v{version}.pt", state)
        weights.forget(self.options.folder, before=version - EVERY - self.options.staleness)

    def load(self, version: int) -> None:
        """What was saved."""
        state = weights.read(self.folder / f"state.v{version}.pt", self.options.device)
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])

    def step(self, rollouts: list[Rollout]) -> None:
        """One step of GRPO with two updates."""
        batch = batch_of(rollouts, self.options.device)
        with torch.no_grad():
            proximal = self.model.log_probabilities(batch.tokens)
        for _ in range(2):
            new = self.model.log_probabilities(batch.tokens)
            loss = decoupled_ppo_loss(new, proximal, batch.behaviour, batch.advantages, batch.mask)
            self.optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
            self.optimizer.step()


def train(options: argparse.Namespace) -> None:
    """Trains to `options.steps` and writes a line of JSON for each step to `curve.jsonl`."""
    torch.set_num_threads(1)
    learner, problems = Learner(options), PROBLEMS[options.problems]()
    checkpoint, curve = Path(options.folder, "checkpoint"), Path(options.folder, "curve.jsonl")
    config = RunConfig(
        consumer_batch_size=options.batch,
        max_staleness=options.staleness,
        staleness_limit=options.staleness,
        max_concurrent_rollouts=options.batch * (options.staleness + 1),
        lease_ms=10_000,
    )
    judged: list[float] = []

    def is_informative(rollout: Rollout) -> bool:
        """DAPO's filter: a group whose samples all have one reward teaches nothing."""
        reward = sum(result["reward"] for result in rollout.results) / len(rollout.results)
        judged.append(reward)
        return 0.0 < reward < 1.0

    with Trainer(options.url, options.run, config) as trainer, curve.open("a", encoding="utf-8") as lines:
        if any(checkpoint.parent.glob("checkpoint*")):
            learner.load(trainer.recover(checkpoint).version_to)
        else:
            warm_up(learner.model, problems, options.warm_up, options.seed, options.device)
            trainer.recover(blob=learner.publish(0))
        trainer.feed(tasks(problems, options.seed))
        ended = time.perf_counter()
        for rollouts in trainer.batches(
            accept=is_informative, checkpoint=checkpoint, every=EVERY, save=learner.save, blob=learner.publish
        ):
            got = time.perf_counter()
            if trainer.version == options.steps:
                trainer.finish()  # the generators end
                break
            learner.step(rollouts)
            line = {
                "step": trainer.version + 1,
                "reward": sum(judged) / max(1, len(judged)),
                "staleness": sum(rollout.staleness for rollout in rollouts) / len(rollouts),
                "waited_s": got - ended,
                "trained_s": time.perf_counter() - got,
                "at": time.time(),
            }
            judged.clear()
            print(f"step {line['step']:3}: reward {line['reward']:.2f}, staleness {line['staleness']:.1f}", flush=True)
            lines.write(json.dumps(line) + "\n")
            lines.flush()
            ended = time.perf_counter()
