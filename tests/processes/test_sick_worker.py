"""A worker process that fails everything, while others do good work: it is quarantined, and nobody else notices."""

from __future__ import annotations

import itertools
import signal
from contextlib import ExitStack

import pytest

from broker import Task
from broker.operator import Operator
from tests.conformance.lab import Lab, names_of
from tests.processes.actors import Actor

pytestmark = pytest.mark.processes


def test_a_worker_that_fails_everything_is_named_kept_away_and_let_in_again(live: Lab) -> None:
    trainer = live.trainer(
        consumer_batch_size=8, max_staleness=2, max_concurrent_rollouts=99, max_attempts=100,
        quarantine_after=3, retry_backoff_ms=5, retry_backoff_max_ms=1_000,
    )  # fmt: skip
    trained, numbers = list[str](), itertools.count()
    trainer.enqueue(Task(id=f"t{number}") for number in itertools.islice(numbers, 24))

    def train_until(quarantines: int) -> None:
        """Steps of training, until the worker was quarantined so often."""
        for _ in range(2_000):
            if trainer.stats().totals.get("quarantines", 0) >= quarantines:
                return
            trainer.enqueue(Task(id=f"t{number}") for number in itertools.islice(numbers, 8))
            trained.extend(names_of(trainer.next_batch(timeout=60)))
            trainer.advance()
        pytest.fail(f"it was not quarantined {quarantines} times")

    with ExitStack() as stack:
        others = [stack.enter_context(Actor("work", live.url, live.run)) for _ in range(2)]
        sick = stack.enter_context(Actor("sick", live.url, live.run))
        train_until(1)
        (session,) = trainer.stats().quarantine
        assert session.startswith("sick~")
        train_until(2)  # it came back by itself, and failed again
        assert trainer.stats().quarantine[session] > 0.0
        assert trainer.stats().halted == 0
        with Operator(live.url) as operator:
            assert operator.readmit(live.run, ["sick"]) == [session]
        train_until(3)  # an operator let it in, and it failed again
        for actor in (sick, *others):
            actor.send(signal.SIGTERM)
            actor.end()
    stats = trainer.stats()
    left = stats.pending + stats.delayed + stats.running + stats.ready
    assert (stats.dead, stats.rejected, stats.consumed) == (0, 0, len(trained))
    assert len(set(trained)) == len(trained) == next(numbers) - left
    assert "worker sick is quarantined" in "".join(sick.err)
