"""The demo's trainer process: feeds start states, trains on each batch, sends the new weights along with the version.

`python -m broker.demo.trainer --url redis://head:6379/0 --run demo` runs it alone; one line of JSON for each step.
"""

from __future__ import annotations

import logging
import sys
import time
from argparse import ArgumentParser, Namespace
from pathlib import Path
from typing import Final

from broker import RunConfig, Trainer
from broker.demo.entry import add_run_arguments, enter
from broker.demo.episodes import Trajectory
from broker.demo.learner import Learner
from broker.demo.options import DemoOptions
from broker.demo.policy import pack_weights
from broker.demo.report import StepReport
from broker.demo.saved import Savings
from broker.demo.starts import number_of, start
from broker.errors import Exhausted
from broker.recovery.sources import exists
from broker.values.rollout import Rollout

_log = logging.getLogger("broker")

#: Batches of tasks that the data loader keeps ahead of what the workers may start.
_AHEAD: Final = 2

#: Steps from one checkpoint to the next.
_STEPS_A_CHECKPOINT: Final = 5

#: A slot may lose this many workers: chaos must not use up a task.
_MAX_ATTEMPTS: Final = 100

#: Transitions kept: the supervisor reads them as they come, a person may look at the whole run afterwards.
_EVENTS_KEPT: Final = 1_000_000


def run_config(options: DemoOptions, lease_s: float) -> RunConfig:
    """The run that a demo's trainer opens."""
    return RunConfig(
        consumer_batch_size=options.batch_size,
        max_staleness=options.max_staleness,
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
        savings: where checkpoints are; None: none are made.
    """

    def __init__(self, trainer: Trainer, options: DemoOptions, savings: Savings | None) -> None:
        self._trainer = trainer
        self._options = options
        self._savings = savings
        self._learner = Learner(options.seed)
        #: How many start states the run has been given: the data loader's position.
        self._fed = 0

    def resume(self) -> None:
        """Goes on from the newest checkpoint where a trainer before this one has begun."""
        if self._savings is not None and (self._trainer.version > 0 or exists(self._savings.broker_file)):
            missing = self._savings.recover(self._trainer, self._learner)
            self._trainer.enqueue(start(self._options.seed, self._options.samples, number_of(task)) for task in missing)
        elif self._trainer.version > 0:
            raise SystemExit(
                f"run {self._trainer.run} is at version {self._trainer.version}, whose weights were not saved: give "
                f"--checkpoints from the start; `broker purge {self._trainer.run}` lets it begin anew"
            )
        self._fed = int(self._trainer.cursor or 0)

    def step(self) -> StepReport:
        """Waits for the batch of the current version and trains on it. `publish` makes it count."""
        began = time.monotonic()
        self._feed_to((self._trainer.version + self._options.max_staleness + _AHEAD) * self._options.batch_size)
        batch = self._next_batch()
        arrived = time.monotonic()
        trajectories = [Trajectory.from_result(result) for rollout in batch for result in rollout.results]
        update = self._learner.update(trajectories)
        return StepReport(
            step=self._trainer.version,
            mean_return=update.mean_return,
            episodes=len(trajectories),
            samples=update.samples,
            mean_weight=update.mean_weight,
            wait_s=arrived - began,
            update_s=time.monotonic() - arrived,
        )

    def publish(self) -> None:
        """Advances to the version just trained; its weights go along."""
        version = self._trainer.advance(pack_weights(self._trainer.version + 1, self._learner.policy))
        if self._savings is not None and (version % _STEPS_A_CHECKPOINT == 0 or version == self._options.steps):
            self._savings.save(self._trainer, self._learner)

    def _next_batch(self) -> list[Rollout]:
        while True:
            try:
                return self._trainer.next_batch()
            except Exhausted as error:
                if error.fields.get("dead"):
                    _log.warning("%s", error)
                # Tasks that ended dead or rejected are missing at the end: others take their place.
                self._feed(self._options.batch_size)

    def _feed_to(self, position: int) -> None:
        """Feeds up to a position, and never more than all steps need."""
        self._feed(min(position, self._options.steps * self._options.batch_size) - self._fed)

    def _feed(self, count: int) -> None:
        if count > 0:
            last = self._fed + count
            tasks = (start(self._options.seed, self._options.samples, number) for number in range(self._fed, last))
            # In one call: the tasks and the position that they end at are stored together.
            self._trainer.enqueue(tasks, cursor=last)
            self._fed = last


def train(namespace: Namespace) -> None:
    """Trains to the last step."""
    options = DemoOptions(
        steps=namespace.steps,
        samples=namespace.samples,
        max_staleness=namespace.max_staleness,
        seed=namespace.seed,
        url=namespace.url,
        run=namespace.run,
    )
    with Trainer(options.url, options.run, run_config(options, namespace.lease_s)) as trainer:
        training = Training(trainer, options, Savings(namespace.checkpoints) if namespace.checkpoints else None)
        training.resume()
        while trainer.version < options.steps:
            report = training.step()
            # Told before it counts: a trainer that is killed in between does the step again and tells it again.
            sys.stdout.write(report.to_line() + "\n")
            sys.stdout.flush()
            training.publish()


def parser() -> ArgumentParser:
    """The command line of the process."""
    default = DemoOptions()
    arguments = ArgumentParser("broker.demo.trainer", description="The trainer of `broker demo`, by itself.")
    add_run_arguments(arguments)
    arguments.add_argument("--steps", type=int, default=default.steps)
    arguments.add_argument("--samples", type=int, default=default.samples)
    arguments.add_argument("--max-staleness", type=int, default=default.max_staleness)
    arguments.add_argument("--seed", type=int, default=default.seed)
    arguments.add_argument("--lease-s", type=float, default=default.lease_s)
    arguments.add_argument("--checkpoints", type=Path, help="directory to save to and to go on from (default: none)")
    return arguments


if __name__ == "__main__":
    enter(parser(), train)
