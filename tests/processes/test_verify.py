"""`broker verify` of a run whose workers and trainer are busy, and die, while it reads."""

from __future__ import annotations

import signal
import threading
from collections.abc import Generator
from contextlib import ExitStack, contextmanager
from typing import Any

from broker import Task, Trainer
from broker.errors import WaitTimeout
from broker.inspection.verification import Verification, verify
from tests.conformance.lab import Lab
from tests.processes.actors import Actor
from tests.threads import InThread
from tests.waiting import wait_until


@contextmanager
def busy(live: Lab, **fields: Any) -> Generator[Trainer]:
    """Workers that end attempts in every way, and a trainer that brings two new tasks for each that it trains on."""
    trainer = live.trainer(
        consumer_batch_size=3, max_staleness=1, max_concurrent_rollouts=6, retry_backoff_ms=10, max_attempts=9, **fields
    )
    trainer.enqueue(Task(id=f"t{i}", samples=1 + i % 3, min_samples=1) for i in range(30))
    enough = threading.Event()

    def train() -> None:
        while not enough.is_set():
            try:
                batch = trainer.next_batch(timeout=0.05)
            except WaitTimeout:
                continue
            step = trainer.version
            trainer.enqueue(Task(id=f"s{step}-{i}", samples=1 + i % 3, min_samples=1) for i in range(2 * len(batch)))
            trainer.advance()

    with ExitStack() as stack:
        actors = [stack.enter_context(Actor("storm", live.url, live.run, seed=seed)) for seed in range(2)]
        for actor in actors:
            actor.wait_for("ready")
        training = InThread(train)
        try:
            yield trainer
        finally:
            enough.set()
            training.result()
            for actor in actors:
                actor.send(signal.SIGTERM)
                actor.end()


def test_a_busy_run_breaks_nothing_at_any_look(live: Lab):
    looks: list[Verification] = []
    with busy(live, lease_ms=1_500, events_maxlen=1_000_000, retention_steps=1_000_000) as trainer:
        with Actor("hold", live.url, live.run, n=2) as victim:
            victim.wait_for("held")
            victim.kill()
        while len(looks) < 8 or not looks[-1].tally.ended["expired"]:
            before = trainer.version
            wait_until(lambda before=before: trainer.version > before, "the run goes on", 30)
            looks.append(verify(live.transport, live.run))
    looks.append(verify(live.transport, live.run))
    assert [look.breaches for look in looks] == [[]] * len(looks)
    assert [look.unseen for look in looks] == [[]] * len(looks)
    assert [look.is_whole for look in looks] == [True] * len(looks)
    assert looks[-1].tally.consumed == 3 * trainer.version
    assert {"expired", "failed", "rejected", "released"} <= looks[-1].tally.ended.keys()


def test_a_busy_run_whose_log_is_trimmed_meanwhile_breaks_nothing(live: Lab):
    looks: list[Verification] = []
    with busy(live, events_maxlen=60) as trainer:
        while len(looks) < 5 or looks[-1].is_whole:
            before = trainer.version
            wait_until(lambda before=before: trainer.version > before, "the run goes on", 30)
            looks.append(verify(live.transport, live.run))
    assert [look.breaches for look in looks] == [[]] * len(looks)
