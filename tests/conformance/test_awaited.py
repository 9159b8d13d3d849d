"""Tasks that a recovery names to be enqueued again: they are left in the run until they are there."""

import asyncio
from pathlib import Path

import pytest

from broker import Exhausted, Task, Trainer, WaitTimeout, aio
from broker.inspection.reasons import batch_progress
from broker.inspection.situation import situation
from broker.operator import Operator
from tests.conformance.lab import Lab, tasks


def recovered(lab: Lab, path: Path, n: int = 3) -> tuple[Trainer, list[str]]:
    """A trainer that has recovered on a server which lost the run of n tasks, and the tasks that the recovery named."""
    trainer = lab.trainer(consumer_batch_size=n)
    trainer.enqueue(tasks(n))
    trainer.checkpoint(path)
    lab.purge()
    return trainer, trainer.recover(path).missing


@pytest.mark.parametrize("short", [False, True])
def test_what_a_recovery_named_is_waited_for(lab: Lab, tmp_path: Path, short: bool):
    """Mutants: named_tasks_are_not_left, nobody_notes_what_a_recovery_names."""
    trainer, missing = recovered(lab, tmp_path / "b.json")
    assert missing == ["t0", "t1", "t2"]
    with pytest.raises(WaitTimeout):
        trainer.next_batch(timeout=0, short=short)
    trainer.enqueue(tasks(1))
    worker = lab.worker()
    worker.submit(worker.claim()[0], b"x")
    with pytest.raises(WaitTimeout):
        trainer.next_batch(timeout=0, short=short)
    assert trainer.stats().awaited == 2
    trainer.enqueue(Task(id=name) for name in missing)
    for attempt in worker.claim(2):
        worker.submit(attempt, b"x")
    assert [rollout.task for rollout in trainer.next_batch(timeout=5, short=short)] == missing
    trainer.advance()
    assert trainer.stats().awaited == 0
    with pytest.raises(Exhausted):
        trainer.next_batch(timeout=5, short=short)


def test_the_asyncio_trainer_waits_for_it_too(lab: Lab, tmp_path: Path):
    trainer, missing = recovered(lab, tmp_path / "b.json")
    trainer.close()

    async def go() -> None:
        async with aio.Trainer(lab.url, run=lab.run, config=lab.config(consumer_batch_size=3)) as other:
            with pytest.raises(WaitTimeout):
                await other.next_batch(timeout=0, short=True)
            await other.cancel(missing)
            with pytest.raises(Exhausted):
                await other.next_batch(timeout=5, short=True)

    asyncio.run(go())


def test_a_trainer_that_waits_is_told_that_nobody_will_bring_them(lab: Lab, tmp_path: Path):
    """Mutant: cancelling_a_named_task_wakes_no_trainer."""
    trainer, missing = recovered(lab, tmp_path / "b.json")
    with pytest.raises(WaitTimeout):
        trainer.next_batch(timeout=0, short=True)
    lab.unmark("wake:ready")
    with Operator(lab.url) as operator:
        assert operator.cancel(lab.run, missing) == dict.fromkeys(missing, "cancelled")
    assert lab.marked("wake:ready")
    with pytest.raises(Exhausted):
        trainer.next_batch(timeout=5, short=True)
    assert trainer.cancel(missing) == dict.fromkeys(missing, "unknown")


def test_a_checkpoint_lists_them_and_another_recovery_names_them_again(lab: Lab, tmp_path: Path):
    """Mutant: none; the file is written by Python."""
    trainer, missing = recovered(lab, tmp_path / "b.json")
    trainer.enqueue(tasks(1))
    for full in (False, True):
        assert trainer.checkpoint(tmp_path / "later.json", full=full).unfinished == set(missing)
    lab.purge()
    report = trainer.recover(tmp_path / "later.json")
    assert (report.restored, report.missing, trainer.stats().awaited) == (1, ["t1", "t2"], 2)


def test_a_recovery_by_version_forgets_none_and_one_by_a_file_names_its_own(lab: Lab, tmp_path: Path):
    """Mutants: a_recovery_by_version_forgets_what_is_named, what_an_earlier_recovery_named_stays."""
    trainer, missing = recovered(lab, tmp_path / "b.json")
    trainer.recover(version=0)
    assert trainer.stats().awaited == 3
    assert trainer.recover(tmp_path / "b.json").missing == missing
    assert trainer.stats().awaited == 3
    trainer.enqueue(tasks(3))
    trainer.checkpoint(tmp_path / "b.json")
    trainer.recover(tmp_path / "b.json")
    assert trainer.stats().awaited == 0


def test_an_audit_counts_them_and_a_repair_ends_a_wait_for_none(lab: Lab, tmp_path: Path):
    """Mutant: an_audit_trusts_the_number_of_named_tasks."""
    trainer, missing = recovered(lab, tmp_path / "b.json")
    assert trainer.audit().ok
    lab.command("HINCRBY", lab.key("state"), "awaited", 2)
    assert trainer.audit().drift == {"awaited": (5, 3)}
    trainer.cancel(missing)
    with pytest.raises(WaitTimeout):
        trainer.next_batch(timeout=0, short=True)
    assert trainer.audit(repair=True).drift == {"awaited": (2, 0)}
    assert trainer.audit().ok
    with pytest.raises(Exhausted):
        trainer.next_batch(timeout=5, short=True)


def test_explain_says_what_is_missing(lab: Lab, tmp_path: Path):
    trainer, _ = recovered(lab, tmp_path / "b.json")
    lab.worker()
    assert "3 tasks that the last recovery named" in situation(trainer.explain()).sentence
    trainer.enqueue(tasks(1))
    assert "the trainer enqueues or cancels what is missing" in batch_progress(trainer.stats())


def test_two_failures_halt_nothing_while_named_tasks_are_missing(lab: Lab, tmp_path: Path):
    """Mutant: named_tasks_cannot_succeed."""
    trainer, _ = recovered(lab, tmp_path / "b.json", 3)
    trainer.enqueue([Task(id="t0", max_attempts=1), Task(id="t1", max_attempts=1)])
    worker = lab.worker()
    for attempt in worker.claim(2):
        worker.fail(attempt, "boom")
    assert (trainer.stats().halted, trainer.stats().dead) == (0, 2)
