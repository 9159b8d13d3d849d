"""Capacity after a recovery: exactly the formula of docs/protocol.md, never the naive one."""

import random
from contextlib import suppress
from pathlib import Path

import pytest

from broker import Task, Trainer
from broker.errors import WaitTimeout
from broker.protocol import anyone, result_bytes
from broker.protocol import trainer as trainer_calls
from broker.protocol import worker as worker_calls
from broker.protocol.worker import Submission
from tests.conformance.lab import Lab, RawWorker, tasks
from tests.recovery.story import serve, train

B, S, C = 4, 2, 100


def _capacity(version: int, running: int, ready: int, concurrency: int = C) -> int:
    """docs/protocol.md, Capacity, spelled out."""
    accepted = version * B + ready
    return min(concurrency - running, (S + version + 1) * B - (accepted + running))


@pytest.mark.parametrize("version", [0, 5, 10, 50, 268])
@pytest.mark.parametrize("in_flight", ["keep", "requeue"])
def test_capacity_after_recovery_table(lab: Lab, version: int, in_flight: str):
    for running, ready in [(0, 0), (1, 0), (4, 0), (12, 0), (0, 1), (0, 5), (0, 12), (1, 1), (4, 5), (7, 5)]:
        for concurrency in (C, 5):
            run = f"{lab.run}/{running}/{ready}/{concurrency}"
            trainer = lab.trainer(
                run=run, consumer_batch_size=B, max_staleness=S, max_concurrent_rollouts=concurrency, max_attempts=1
            )
            worker = lab.worker(run)
            trainer.enqueue(tasks(ready + running + 30))
            assert len(serve(worker, ready)) == ready
            held = worker.claim(max(1, running)) if running else []
            running_now = len(held)
            assert running_now == min(running, concurrency)

            report = trainer.recover(version=version, in_flight=in_flight)

            left = running_now if in_flight == "keep" else 0
            expected = _capacity(version, left, ready, concurrency)
            assert (report.version_to, report.running[1], report.accepted[1]) == (version, left, version * B + ready)
            assert report.capacity[1] == trainer.capacity() == expected, (running, ready, concurrency)
            # What counts in the end: how many tasks the workers get.
            other = lab.worker(run)
            assert len(other.claim(1000)) == max(0, expected)


@pytest.mark.parametrize("in_flight", ["keep", "requeue"])
def test_groups_half_done_count_as_running_after_recovery(lab: Lab, in_flight: str):
    """A group with a result keeps it, and its place among the running; one with nothing but attempts waits again."""
    trainer = lab.trainer(consumer_batch_size=B, max_staleness=S, max_concurrent_rollouts=C)
    worker = lab.worker()
    trainer.enqueue([Task(id="half", samples=3), Task(id="none", samples=3), *tasks(20)])
    attempts = worker.claim(6)
    worker.submit(attempts[0], b"x")

    report = trainer.recover(version=5, in_flight=in_flight)

    running = 2 if in_flight == "keep" else 1
    assert report.running[1] == running
    assert report.capacity[1] == _capacity(5, running, 0)
    assert (report.attempts_kept, report.attempts_revoked) == ((5, 0) if in_flight == "keep" else (0, 5))
    assert report.results_kept == 1


def test_the_naive_formula_says_1084_and_we_say_12(lab: Lab, tmp_path: Path):
    """The report of AReaL: the version comes back as 268, `accepted` as 0."""
    trainer, worker = lab.trainer(consumer_batch_size=B, max_staleness=S, max_concurrent_rollouts=10_000), lab.worker()
    trainer.enqueue(tasks(2000))
    trainer.recover(version=268)
    trainer.checkpoint(tmp_path / "step_268", full=True)
    naive = min(10_000 - 0, (S + 268 + 1) * B - (0 + 0))
    assert naive == 1084
    for name in lab.command("KEYS", lab.key("*")):
        lab.command("DEL", name)

    report = trainer.recover(tmp_path / "step_268")

    assert report.restored == 2000
    assert (report.accepted[1], report.capacity[1], trainer.capacity()) == (268 * B, 12, 12)
    assert len(worker.claim(1000)) == 12


@pytest.mark.parametrize("version", [0, 1, 5, 268, 100_000])
def test_accepted_is_areals_version_times_batch_when_nothing_is_buffered(lab: Lab, version: int):
    trainer = lab.trainer(consumer_batch_size=B, max_staleness=S, max_concurrent_rollouts=C)
    trainer.recover(version=version)
    assert lab.stat("accepted") == version * B
    assert trainer.capacity() == (S + 1) * B


def test_version_0_is_a_no_op_for_the_counters(lab: Lab):
    """With running and ready tasks and an unsealed batch; and for what the workers hold."""
    trainer = lab.trainer(consumer_batch_size=B, max_staleness=S, max_concurrent_rollouts=C)
    worker = lab.worker()
    trainer.enqueue(tasks(30))
    serve(worker, 6)
    held = worker.claim(3)
    names = ("version", "step_next", "accepted", "running", "capacity", "n_ready", "n_in_running", "n_pending")
    before = {name: lab.stat(name) for name in names}

    report = trainer.recover()

    assert {name: lab.stat(name) for name in names} == before
    assert (report.accepted[0], report.running[0], report.capacity[0]) == (
        report.accepted[1],
        report.running[1],
        report.capacity[1],
    )
    worker.renew()
    assert [attempt.cancelled for attempt in held] == [False] * 3
    assert [worker.submit(attempt, b"x").answer for attempt in held] == ["accepted"] * 3


def test_the_counters_of_a_real_history_that_comes_back_from_a_checkpoint(lab: Lab, tmp_path: Path):
    """5 steps, then 2 ready and 1 running; the server keeps them, and then does not."""
    trainer = lab.trainer(consumer_batch_size=2, max_staleness=2, max_concurrent_rollouts=50)
    worker = lab.worker()
    trainer.enqueue(tasks(40))
    for _ in range(5):
        serve(worker, 2)
        train(trainer, worker)
    trainer.checkpoint(tmp_path / "five", full=True)
    ready, running = lab.stat("n_ready"), lab.stat("running")

    report = trainer.recover(tmp_path / "five")
    assert (report.accepted[1], report.running[1]) == (5 * 2 + ready, running)
    assert report.capacity[1] == min(50 - running, (2 + 5 + 1) * 2 - (5 * 2 + ready + running))

    for name in lab.command("KEYS", lab.key("*")):
        lab.command("DEL", name)
    report = trainer.recover(tmp_path / "five")
    assert (report.accepted[1], report.running[1], report.capacity[1]) == (5 * 2, 0, 6)


def _work(lab: Lab, worker: RawWorker) -> None:
    """Claims and submits until there is no capacity, 64 at a time."""
    while True:
        worker.number += 1
        claimed = lab.call(worker_calls.claim, worker.session, worker.number, 64, f"r{worker.number}x")
        if not claimed.granted:
            return
        lab.call(result_bytes.submit_call, [Submission(one.attempt_id, "accept", body=b"x") for one in claimed.granted])


class _Watch:
    """Looks at the capacity after every call of a run."""

    def __init__(self, lab: Lab, bound: int) -> None:
        self.lab, self.bound, self.highest = lab, bound, -(10**9)

    def look(self) -> None:
        capacity = self.lab.stat("capacity")
        self.highest = max(self.highest, capacity)
        assert capacity <= self.bound, f"capacity drifted to {capacity}"


def test_capacity_stays_within_48_when_half_the_rollouts_are_discarded_for_100_steps(lab: Lab):
    """B=16, S=2. Without the settlement at advance it drifts to 840 (docs/protocol.md, Capacity)."""
    rng = random.Random(1)
    trainer = lab.raw_trainer(consumer_batch_size=16, max_staleness=2, max_concurrent_rollouts=10_000, events_maxlen=0)
    worker, watch, number = lab.raw_worker(), _Watch(lab, 48), 0
    for step in range(100 if lab.server.kind.is_real else 30):
        judged: set[str] = set()
        while True:
            if lab.stat("n_pending") < 64:
                trainer.enqueue(*(f"t{number + i}" for i in range(64)))
                number += 64
            _work(lab, worker)
            watch.look()
            taken = trainer.take(step, 16, seal=False)
            fresh = {row.task for row in lab.call(anyone.batch, step, 0, 64).rows} - judged
            judged |= fresh
            refused = [name for name in sorted(fresh) if rng.random() < 0.5]
            if refused:
                trainer.send(trainer_calls.discard, "no advantage", refused)
                watch.look()
            elif taken.size >= 16:
                break
        trainer.advance(step, trainer.take(step, 16, limit=0).digest)
        watch.look()
        lab.call(anyone.trim)
    assert lab.stat("total_discarded") > step * 16 * 0.7


def _taken(trainer: Trainer, n: int) -> bool:
    with suppress(WaitTimeout):
        return bool(trainer.next_batch(n, timeout=0))
    return False


@pytest.mark.parametrize("recovers", [False, True])
def test_capacity_stays_within_48_with_short_and_over_full_batches(lab: Lab, tmp_path: Path, recovers: bool):
    """Batches of 1 to 48 where B is 16; with a recovery to the step before last now and then."""
    rng = random.Random(2)
    trainer = lab.trainer(
        consumer_batch_size=16,
        max_staleness=2,
        max_concurrent_rollouts=10_000,
        events_maxlen=0,
        max_stale_requeues=10**6,
    )
    worker, watch, number = lab.raw_worker(), _Watch(lab, 48), 0
    for round_ in range(60 if lab.server.kind.is_real else 20):
        if lab.stat("n_pending") < 64:
            trainer.enqueue(tasks(128, f"r{number}."))
            number += 1
        _work(lab, worker)
        watch.look()
        n = rng.choice([1, 2, 15, 16, 17, 30, 48])
        while not _taken(trainer, n):  # stale ones were met, and are done again
            watch.look()
            _work(lab, worker)
        watch.look()
        trainer.advance()
        watch.look()
        if round_ % 4 == 1:
            trainer.checkpoint(tmp_path / "file")
        if recovers and round_ % 4 == 3:
            trainer.recover(tmp_path / "file")
            watch.look()
            assert trainer.audit().drift == {}
