"""The trainer: a supervised warm-up, then GRPO on what the generators submit."""

# pyright: basic, reportMissingImports=false

import argparse
import contextlib
import json
import random
import time
from collections import deque
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch

from broker import Exhausted, Judged, Policy, Rollout, RunConfig, Task, Trainer, WaitTimeout
from broker.integrations.torch import pad
from broker.weights import Publisher
from examples.grpo.loss import batch_of, decoupled_ppo_loss
from examples.grpo.model import SIZES, Transformer, decode, dtype_on, encode, set_up
from examples.grpo.problems import PROBLEMS, Problems

#: Steps between two checkpoints.
EVERY = 5
#: The mean reward of so many steps says whether it has learned enough.
LOOKED_AT = 5
#: Problems of an evaluation.
QUESTIONS = 64


def warm_up(model: Transformer, problems: Problems, enough: float, seed: int, device: str) -> None:
    """Supervised steps, until a share of `enough` of the model's own answers is right: it knows the form, not more.

    Guesses are right one time in twelve, so that one look at few answers may pass by chance: two looks have to.
    """
    optimizer = torch.optim.AdamW(model.parameters(), lr=model.size.warm_up_rate)
    rng = random.Random(seed)
    looks: deque[float] = deque(maxlen=2)
    for step in range(1_000):
        if step % 3 == 0:
            results = model.sample([problems.prompt(rng) for _ in range(128)], problems.answer)
            looks.append(sum(problems.reward(decode(result["tokens"].tolist())) for result in results) / len(results))
            if sum(looks) / 2 >= enough:
                return
        prompts = [problems.prompt(rng) for _ in range(64)]
        texts = [torch.tensor(encode(prompt + problems.solution(prompt))) for prompt in prompts]
        tokens, mask = (tensor.to(device) for tensor in pad(texts))
        loss = (-model.log_probabilities(tokens) * mask[:, 1:]).sum() / mask[:, 1:].sum()
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
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
        publisher: of its weights.
    """

    def __init__(self, options: argparse.Namespace, publisher: Publisher) -> None:
        torch.manual_seed(options.seed)
        self.options, self.folder, self.publisher = options, Path(options.folder), publisher
        self.model = Transformer(SIZES[options.size]).to(options.device)
        rate = options.learning_rate or self.model.size.learning_rate
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=rate, weight_decay=0.0)
        self.published = b""  # the blob of the newest version
        self.publish_s = 0.0  # how long it took to publish it

    def begin(self, version: int) -> bytes:
        """The weights that a life of this program begins with: what was saved, or a warmed-up model.

        A life that is killed before the first checkpoint leaves the warmed-up model to the next one.
        """
        path = self._path(version)
        if version > 0 or path.exists():
            state = torch.load(path, map_location=self.options.device)
            self.model.load_state_dict(state["model"])
            self.optimizer.load_state_dict(state["optimizer"])
        else:
            problems = PROBLEMS[self.options.problems]()
            warm_up(self.model, problems, self.options.warm_up, self.options.seed, self.options.device)
            self.save(version)
        return self.publish(version)

    def _path(self, version: int) -> Path:
        return self.folder / f"state.v{version}.pt"

    def publish(self, version: int) -> bytes:
        """Publishes what generators need of a version, in the type that they generate with."""
        begun = time.perf_counter()
        state = {name: tensor.to(dtype_on(self.options.device)) for name, tensor in self.model.state_dict().items()}
        is_judged = evaluates(self.options, version)
        self.published = self.publisher.publish(version, lambda path: torch.save(state, path), pin=is_judged)
        self.publish_s = time.perf_counter() - begun
        return self.published

    def save(self, version: int) -> None:
        """Saves what this program needs to go on. The file has its name when it is whole."""
        state = {"model": self.model.state_dict(), "optimizer": self.optimizer.state_dict()}
        draft = self.folder / "state.draft"
        torch.save(state, draft)
        draft.rename(self._path(version))
        for path in self.folder.glob("state.v*.pt"):  # two checkpoints are kept
            if int(path.suffixes[0].removeprefix(".v")) < version - 2 * EVERY:
                path.unlink()

    def step(self, rollouts: list[Rollout]) -> None:
        """One step of GRPO with two updates."""
        device = torch.device(self.options.device)
        batch = batch_of(rollouts, self.options.device)
        mixed = torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda")
        with torch.no_grad(), mixed:
            proximal = self.model.log_probabilities(batch.tokens)
        for _ in range(2):
            with mixed:
                new = self.model.log_probabilities(batch.tokens)
            loss = decoupled_ppo_loss(new, proximal, batch.behaviour, batch.advantages, batch.mask)
            self.optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
            self.optimizer.step()
        if device.type == "cuda":
            torch.cuda.synchronize()  # so that the time of the step is the step's


def evaluates(options: argparse.Namespace, version: int) -> bool:
    """Whether a version is evaluated."""
    return options.evaluate_every > 0 and version % options.evaluate_every == 0


def questions(options: argparse.Namespace, policy: Policy, blob: bytes) -> Iterator[Task]:
    """The problems of an evaluation, the same for each version. No training problem has their numbers."""
    problems = PROBLEMS[options.problems]()
    for number in range(QUESTIONS):
        prompt = problems.prompt(random.Random(f"evaluation/{number}"))
        yield Task(id=f"{policy.epoch}/v{policy.version}/{number}", payload=Judged(prompt, policy, blob))


class Evaluations:
    """The lane in which some versions are evaluated beside training, with the most probable tokens.

    Args:
        lane: its trainer.
        learner: has the weights.
    """

    def __init__(self, lane: Trainer, learner: Learner) -> None:
        self._lane, self._learner = lane, learner
        self._rewards: dict[Policy, list[float]] = {}

    def begin(self, policy: Policy) -> None:
        """Has the generators evaluate the newest version, if it is to be evaluated."""
        if evaluates(self._learner.options, policy.version):
            self._lane.enqueue(questions(self._learner.options, policy, self._learner.published))

    def look(self, timeout: float) -> None:
        """Takes what has been evaluated, and writes a line of JSON for each whole evaluation.

        Raises:
            Exhausted: no evaluation is under way.
            WaitTimeout: none has ended in that time.
        """
        for rollout in self._lane.next_batch(timeout=timeout):
            assert rollout.judged is not None, "every task of this run is of an evaluation"
            found = self._rewards.setdefault(rollout.judged, [])
            found.append(rollout.results[0]["reward"])
            if len(found) == QUESTIONS:
                self._tell(rollout.judged.version, sum(found) / QUESTIONS)
        self._lane.advance()

    def _tell(self, version: int, reward: float) -> None:
        self._learner.publisher.unpin(version)
        print(f"version {version:3}: reward {reward:.2f} in evaluation", flush=True)
        line = {"version": version, "reward": reward, "at": time.time()}
        with (self._learner.folder / "evaluations.jsonl").open("a", encoding="utf-8") as lines:
            lines.write(json.dumps(line) + "\n")


def train(options: argparse.Namespace) -> None:
    """Trains until it is enough and writes a line of JSON for each step to `curve.jsonl`."""
    set_up(options.device)
    config = RunConfig(
        consumer_batch_size=options.batch,
        max_staleness=options.staleness,
        staleness_limit=options.staleness,
        max_concurrent_rollouts=options.batch * (options.staleness + 1),
        lease_ms=options.lease_ms,
    )
    lane = RunConfig(consumer_batch_size=QUESTIONS, max_staleness=None, lease_ms=options.lease_ms)
    with (
        Publisher(Path(options.folder, "weights"), checksum=False) as publisher,
        TimedTrainer(options.url, options.run, config) as trainer,
        Trainer(options.url, f"{options.run}/eval", lane) as evaluation,
    ):
        learner = Learner(options, publisher)
        evaluations = Evaluations(evaluation, learner)
        steps(trainer, learner, evaluations)
        with contextlib.suppress(Exhausted):
            while True:
                evaluations.look(timeout=60.0)
        evaluation.finish()
        trainer.finish()  # the generators end


class TimedTrainer(Trainer):
    """Notes how long the calls of a step take in the broker."""

    in_calls_s = 0.0

    def advance(self, blob: bytes | None = None, *, allow_empty: bool = False) -> int:
        begun = time.perf_counter()
        version = super().advance(blob, allow_empty=allow_empty)
        self.in_calls_s += time.perf_counter() - begun
        return version

    def time_of_reading(self) -> float:
        """Seconds to read the batch of the present step once more: what of `next_batch` is no waiting."""
        begun = time.perf_counter()
        self.read_batch(self.version)
        return time.perf_counter() - begun


def is_enough(options: argparse.Namespace, version: int, rewards: Sequence[float]) -> bool:
    """Whether training ends before `--steps`: at a version that is evaluated, if there are such."""
    if not options.until or version % (options.evaluate_every or EVERY) or len(rewards) < LOOKED_AT:
        return False
    return sum(rewards) / len(rewards) >= options.until


def steps(trainer: TimedTrainer, learner: Learner, evaluations: Evaluations) -> None:
    """The steps of training, with the evaluations that they begin."""
    options, checkpoint = learner.options, learner.folder / "checkpoint"
    judged: list[float] = []
    rewards: deque[float] = deque(maxlen=LOOKED_AT)

    def is_informative(rollout: Rollout) -> bool:
        """DAPO's filter: a group whose samples all have one reward teaches nothing."""
        reward = sum(result["reward"] for result in rollout.results) / len(rollout.results)
        judged.append(reward)
        return 0.0 < reward < 1.0

    trainer.recover(checkpoint, missing_ok=True, blob=learner.begin)
    trainer.feed(tasks(PROBLEMS[options.problems](), options.seed))
    batches = trainer.batches(
        accept=is_informative, checkpoint=checkpoint, every=EVERY, save=learner.save, blob=learner.publish
    )
    with (learner.folder / "curve.jsonl").open("a", encoding="utf-8") as lines:
        ended, learner.publish_s = time.perf_counter(), 0.0
        for rollouts in batches:
            got = time.perf_counter()
            evaluations.begin(trainer.policy)
            if trainer.version == options.steps or is_enough(options, trainer.version, rewards):
                return
            with contextlib.suppress(Exhausted, WaitTimeout):
                evaluations.look(timeout=0.0)
            in_calls_s, trainer.in_calls_s = trainer.in_calls_s + trainer.time_of_reading(), 0.0
            began = time.perf_counter()
            learner.step(rollouts)
            trained = time.perf_counter()
            line = {
                "step": trainer.version + 1,
                "reward": sum(judged) / max(1, len(judged)),
                "staleness": sum(rollout.staleness for rollout in rollouts) / len(rollouts),
                "waited_s": got - ended - learner.publish_s,
                "published_s": learner.publish_s,
                "in_broker_s": in_calls_s,
                "trained_s": trained - began,
                "at": time.time(),
            }
            judged.clear()
            rewards.append(line["reward"])
            learner.publish_s = 0.0
            print(f"step {line['step']:3}: reward {line['reward']:.2f}, staleness {line['staleness']:.1f}", flush=True)
            lines.write(json.dumps(line) + "\n")
            lines.flush()
            ended = trained
