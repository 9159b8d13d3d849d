"""The demo's trainer process: enqueues start states, trains on each batch, sends the new weights with the version.

`python -m broker.demo.trainer --url redis://head:6379/0 --run demo` runs it alone; one line of JSON for each step.
"""

from __future__ import annotations

import json
import logging
import sys
import time
from argparse import ArgumentParser, Namespace
from pathlib import Path
from typing import Any, Final

from broker import RunConfig, Task, Trainer
from broker.demo.child import enter
from broker.demo.learner import Learner
from broker.demo.options import CHECKPOINT, DemoOptions, task_id
from broker.demo.policy import unpack
from broker.errors import Exhausted
from broker.recovery.checkpoint import read_checkpoint
from broker.recovery.find_checkpoint import exists
from broker.values.rollout import Rollout

_log = logging.getLogger(__name__)

#: How many batches of tasks the data loader enqueues beyond those that workers may start.
_AHEAD: Final = 2

#: Steps from one checkpoint to the next.
_STEPS_A_CHECKPOINT: Final = 5

#: A slot may lose this many workers, so that chaos does not make tasks dead.
_MAX_ATTEMPTS: Final = 100

#: Transitions kept: enough that a person can look at the whole run afterwards.
_EVENTS_KEPT: Final = 1_000_000

#: Start states of one seed; those of the next seed begin after them.
_STARTS_PER_SEED: Final = 10_000_000


def run_config(options: DemoOptions, lease_s: float) -> RunConfig:
    """The run that a demo's trainer opens."""
    return RunConfig(
        consumer_batch_size=options.batch_size,
        max_staleness=options.max_staleness,
        staleness_limit=options.max_staleness,
        max_concurrent_rollouts=options.max_concurrent,
        lease_ms=round(lease_s * 1000),
        max_attempts=_MAX_ATTEMPTS,
        max_stale_requeues=_MAX_ATTEMPTS,
        events_maxlen=_EVENTS_KEPT,
    )


class Training:
    """One trainer and its learner.

    Args:
        trainer: holds the run.
        options: of the demo.
        checkpoint: the name of the checkpoints; None: none are made.
    """

    def __init__(self, trainer: Trainer, options: DemoOptions, checkpoint: Path | None) -> None:
        self._trainer = trainer
        self._options = options
        self._checkpoint = checkpoint
        self._learner = Learner(options.seed)

    def resume(self) -> None:
        """Goes on from the newest checkpoint if an earlier trainer made one, or begins at version 0."""
        trainer = self._trainer
        if self._checkpoint is None:
            if trainer.version > 0:
                raise SystemExit(
                    f"run {trainer.run} is at version {trainer.version}, whose weights were not saved: give "
                    f"--checkpoints from the start; `broker purge {trainer.run}` lets it begin anew"
                )
        elif trainer.version > 0 or exists(self._checkpoint):
            report = trainer.recover(self._checkpoint, missing_ok=True)
            if report.source is not None:
                self._learner.restore(unpack(read_checkpoint(Path(report.source)).blob, trainer.version))
            trainer.enqueue(self._task(int(name.rpartition("-")[2])) for name in report.missing)

    def step(self) -> dict[str, Any]:
        """Waits for the batch of the current version and trains on it; `publish` advances.

        Returns:
            The line to print for the step.
        """
        options, trainer = self._options, self._trainer
        began = time.monotonic()
        ahead = (trainer.version + options.max_staleness + _AHEAD) * options.batch_size
        self._feed_to(min(ahead, options.steps * options.batch_size))
        batch = self._next_batch()
        arrived = time.monotonic()
        episodes = [result for rollout in batch for result in rollout.results]
        seen = self._learner.update(episodes)
        seconds = {"wait_s": arrived - began, "update_s": time.monotonic() - arrived}
        return {"step": trainer.version, "episodes": len(episodes), **seen, **seconds}

    def publish(self) -> None:
        """Advances to the version just trained, with its weights as blob."""
        version = self._trainer.advance(self._learner.pack(self._trainer.version + 1))
        if self._checkpoint is not None and (version % _STEPS_A_CHECKPOINT == 0 or version == self._options.steps):
            self._trainer.checkpoint(self._checkpoint)

    def _next_batch(self) -> list[Rollout]:
        while True:
            try:
                return self._trainer.next_batch()
            except Exhausted as error:
                if error.fields.get("dead"):
                    _log.warning("%s", error)
                # Tasks that ended dead or rejected would be missing at the end: others replace them.
                self._feed_to(self._fed + self._options.batch_size)

    @property
    def _fed(self) -> int:
        """How many start states the run has been given: the data loader's position, which the run stores."""
        return int(self._trainer.cursor or 0)

    def _feed_to(self, position: int) -> None:
        if position > self._fed:
            # One call stores the tasks and the position after them together.
            self._trainer.enqueue((self._task(number) for number in range(self._fed, position)), cursor=position)

    def _task(self, number: int) -> Task:
        """The payload: the seed of a start state, and that of version 0, whose weights are not sent."""
        seed = self._options.seed
        payload = {"seed": seed * _STARTS_PER_SEED + number, "policy_seed": seed}
        return Task(id=task_id(number), payload=payload, samples=self._options.samples)


def train(namespace: Namespace) -> None:
    """Trains to the last step."""
    options = DemoOptions(
        steps=namespace.steps, samples=namespace.samples, max_staleness=namespace.max_staleness, seed=namespace.seed
    )
    with Trainer(namespace.url, namespace.run, run_config(options, namespace.lease_s)) as trainer:
        training = Training(trainer, options, namespace.checkpoints and namespace.checkpoints / CHECKPOINT)
        training.resume()
        while trainer.version < options.steps:
            # Printed before the advance: a trainer that is killed in between makes and prints the step again.
            sys.stdout.write(json.dumps(training.step()) + "\n")
            sys.stdout.flush()
            training.publish()


if __name__ == "__main__":
    default = DemoOptions()
    arguments = ArgumentParser("broker.demo.trainer", description="The trainer of `broker demo`, by itself.")
    arguments.add_argument("--steps", type=int, default=default.steps)
    arguments.add_argument("--samples", type=int, default=default.samples)
    arguments.add_argument("--max-staleness", type=int, default=default.max_staleness)
    arguments.add_argument("--seed", type=int, default=default.seed)
    arguments.add_argument("--lease-s", type=float, default=default.lease_s)
    arguments.add_argument("--checkpoints", type=Path, help="directory to save to and to go on from (default: none)")
    enter(arguments, train)
