"""The times of a rollout: when it was claimed, submitted, ready and sealed, and what a training log says of a batch."""

from __future__ import annotations

import pytest

from broker import Rollout, Task, WaitTimeout
from tests.conformance.lab import START_MS, Lab, tasks

START_S = START_MS / 1000


def test_a_rollout_says_how_long_it_was_generated_and_how_long_it_waited(lab: Lab):
    """Mutants: a_batch_has_no_time."""
    trainer, worker = lab.trainer(consumer_batch_size=2, max_concurrent_rollouts=9, max_staleness=1), lab.worker()
    trainer.enqueue([Task(id="pair", samples=2), Task(id="one")])
    lab.pass_ms(1_000)
    first, second, one = worker.claim(3)
    lab.pass_ms(2_500)
    worker.submit(second, b"x")
    lab.pass_ms(500)
    worker.submit(first, b"x")
    lab.pass_ms(4_000)
    worker.submit(one, b"x")
    lab.pass_ms(3_000)
    pair, single = trainer.next_batch(timeout=5)
    assert [(sample.claimed_at, sample.submitted_at) for sample in pair.samples] == [
        (START_S + 1, START_S + 4),
        (START_S + 1, START_S + 3.5),
    ]
    assert [sample.generation_s for sample in pair.samples] == [3.0, 2.5]
    assert (pair.ready_at, pair.sealed_at, pair.queued_s) == (START_S + 4, START_S + 11, 7.0)
    assert (single.ready_at, single.queued_s) == (START_S + 8, 3.0)
    lab.pass_ms(60_000)
    assert _times(trainer.next_batch(timeout=5)) == _times([pair, single]), "another delivery says the same"
    assert _times(lab.trainer(reopen=True).next_batch(timeout=5)) == _times([pair, single]), "so does another trainer"
    assert _times(lab.trainer(reopen=True).read_batch(0, timeout=5)) == _times([pair, single]), "so does a rank"


def test_a_batch_of_a_filter_has_the_time_when_it_was_sealed(lab: Lab):
    trainer, worker = lab.trainer(consumer_batch_size=2, max_concurrent_rollouts=9, max_staleness=1), lab.worker()
    trainer.enqueue(tasks(3))
    refused = ""

    def accept(rollout: Rollout) -> bool:
        lab.pass_ms(1_000)
        return rollout.task != refused

    attempts = worker.claim(3)
    refused = attempts[0].task
    for attempt in attempts:
        worker.submit(attempt, b"x")
    batch = trainer.next_batch(accept=accept, timeout=5)
    assert {rollout.sealed_at for rollout in batch} == {START_S + 3}
    assert {rollout.queued_s for rollout in batch} == {3.0}


@pytest.mark.parametrize("stored", ["", "expired"], ids=["at once", "after an attempt that expired"])
def test_times_that_an_earlier_release_did_not_store_are_none(lab: Lab, stored: str):
    trainer, worker = lab.trainer(consumer_batch_size=1), lab.worker()
    trainer.enqueue(tasks(1))
    (attempt,) = worker.claim(1)
    worker.submit(attempt, b"x")
    trainer.next_batch(timeout=5)
    size, digest, _ = lab.command("HGET", lab.key("batches"), "0").decode().split()
    lab.command("HSET", lab.key("batches"), "0", f"{size} {digest}")
    head, _, slot = lab.command("HGET", lab.key("tasks"), attempt.task).decode().partition(";")
    words = slot.split(",")
    words[7] = stored
    lab.command("HSET", lab.key("tasks"), attempt.task, f"{head};{','.join(words)}")
    (rollout,) = lab.trainer(reopen=True).next_batch(timeout=5)
    (sample,) = rollout.samples
    assert sample.claimed_at == START_S
    assert (sample.submitted_at, sample.generation_s) == (None, None)
    assert (rollout.ready_at, rollout.sealed_at, rollout.queued_s) == (None, None, None)


def test_a_training_log_has_the_numbers_of_the_last_batch(lab: Lab):
    trainer, worker = lab.trainer(consumer_batch_size=2, max_concurrent_rollouts=9, max_staleness=1), lab.worker()
    assert not [name for name in trainer.metrics() if name.startswith("broker/batch/")]
    trainer.enqueue(tasks(4))
    attempts = worker.claim(4)
    for attempt in attempts[:3]:
        lab.pass_ms(2_000)
        worker.submit(attempt, b"x")
    trainer.next_batch(timeout=5)
    trainer.advance()
    lab.pass_ms(2_000)
    worker.submit(attempts[3], b"x")
    lab.pass_ms(1_000)
    trainer.next_batch(timeout=5)
    seen = trainer.metrics()
    assert seen["broker/batch/staleness_mean"] == seen["broker/batch/staleness_max"] == 1.0
    assert seen["broker/batch/generation_seconds_mean"] == pytest.approx(7.0)
    assert seen["broker/batch/queued_seconds_mean"] == pytest.approx(2.0)
    assert 0 <= seen["broker/batch/wait_seconds"] < 5


def _times(batch: list[Rollout]) -> list[object]:
    samples = [(sample.claimed_at, sample.submitted_at) for rollout in batch for sample in rollout.samples]
    return [samples, *(rollout.sealed_at for rollout in batch)]


def test_after_a_recovery_the_wait_for_a_step_is_a_new_one(lab: Lab):
    trainer, worker = lab.trainer(consumer_batch_size=1), lab.worker()
    trainer.enqueue(tasks(1))
    with pytest.raises(WaitTimeout):
        trainer.next_batch(timeout=0.05)
    for attempt in worker.claim(1):
        worker.submit(attempt, b"x")
    waits: list[float] = []
    for _ in range(2):
        trainer.next_batch(timeout=5)
        waits.append(trainer.metrics()["broker/batch/wait_seconds"])
        trainer.recover(version=0)
    assert waits[0] >= 0.05
    assert waits[1] != waits[0]
