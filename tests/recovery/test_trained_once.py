"""Each task of the surviving history is trained exactly once, whatever the lost future did with it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from broker import Attempt, Rollout, Task, Trainer, Worker
from broker.errors import Gone
from tests.conformance.lab import Lab, names_of, tasks
from tests.recovery.story import judge_once, serve, surviving, train, train_to_the_end
from tests.waiting import wait_until

#: What happened after the checkpoint of version 2, and is lost. Gets a run with 24 tasks and 4 groups of 3.
LostFuture = Callable[[Lab, Trainer, Worker], None]

ALL = [*(f"t{i}" for i in range(24)), *(f"g{i}" for i in range(4))]


def _nothing(lab: Lab, trainer: Trainer, worker: Worker) -> None:
    pass


def _advanced(lab: Lab, trainer: Trainer, worker: Worker) -> None:
    train(trainer, worker, 3)


def _batch_sealed(lab: Lab, trainer: Trainer, worker: Worker) -> None:
    serve(worker)
    trainer.next_batch(timeout=1)


def _batch_open(lab: Lab, trainer: Trainer, worker: Worker) -> None:
    with pytest.raises(TimeoutError):
        trainer.next_batch(6, timeout=0)
    assert lab.stat("open_size") > 0


def _batch_prefetched(lab: Lab, trainer: Trainer, worker: Worker) -> None:
    train(trainer, worker, 1)
    serve(worker)
    trainer.next_batch(timeout=1, prefetch=True)
    wait_until(lambda: lab.stat("step_next") == 5, "the next batch is sealed ahead")


def _batches_short_and_over_full(lab: Lab, trainer: Trainer, worker: Worker) -> None:
    for n in (1, 6, 1, 4):
        train(trainer, worker, n=n)


def _discarded(lab: Lab, trainer: Trainer, worker: Worker) -> None:
    refused: list[str] = []

    def accept(rollout: Rollout) -> bool:
        refused.append(rollout.task)
        return len(refused) > 2

    for _ in range(2):
        serve(worker)
        trainer.next_batch(accept=accept, timeout=1)
        trainer.advance()
    assert [lab.row(name).state for name in refused[:2]] == ["rejected"] * 2


def _groups_half_done(lab: Lab, trainer: Trainer, worker: Worker) -> None:
    _until_a_group(lab, trainer, worker)
    trainer.next_batch(timeout=1)
    trainer.advance()


def _until_a_group(lab: Lab, trainer: Trainer, worker: Worker) -> None:
    """Goes on until a group is running with one sample done and two in flight."""
    while not any(name.startswith("g") and state == "running" for name, state in lab.states().items()):
        attempts = worker.claim(1)
        if not attempts:
            trainer.next_batch(timeout=1)
            trainer.advance()
        for attempt in attempts:
            if attempt.task.startswith("g"):
                worker.claim(2)
            worker.submit(attempt, b"x")


def _single(trainer: Trainer, worker: Worker) -> Attempt:
    """An attempt of a task of one sample; goes on until there is one."""
    while True:
        attempts = worker.claim(1)
        if not attempts:
            trainer.next_batch(timeout=1)
            trainer.advance()
        for attempt in attempts:
            if not attempt.task.startswith("g"):
                return attempt
            worker.submit(attempt, b"x")


def _waiting_for_a_retry(lab: Lab, trainer: Trainer, worker: Worker) -> None:
    """A task in `delayed`, and a group with a slot that waits."""
    _until_a_group(lab, trainer, worker)
    held = next(attempt for attempt in worker.held if attempt.task.startswith("g"))
    worker.fail(held, "boom")
    assert lab.row(held.task).letters.count("W") == 1
    attempt = _single(trainer, worker)
    worker.fail(attempt, "boom")
    assert lab.row(attempt.task).state == "delayed"


def _dead(lab: Lab, trainer: Trainer, worker: Worker) -> None:
    attempt = _single(trainer, worker)
    worker.fail(attempt, "boom", retry=False)
    assert lab.row(attempt.task).state == "dead"
    train(trainer, worker, 1)


def _rejected_and_cancelled(lab: Lab, trainer: Trainer, worker: Worker) -> None:
    attempt = _single(trainer, worker)
    worker.reject(attempt, "no answer in it")
    trainer.cancel(["t20", "t21"])
    train(trainer, worker, 2)


def _retried(lab: Lab, trainer: Trainer, worker: Worker) -> None:
    attempt = _single(trainer, worker)
    worker.fail(attempt, "boom", retry=False)
    trainer.retry([attempt.task])
    train(trainer, worker, 2)


def _held_by_a_worker_that_is_gone(lab: Lab, trainer: Trainer, worker: Worker) -> None:
    other = lab.worker()
    other.claim(2)
    lab.pass_ms(70_000)
    train(trainer, worker, 2)


def _stale(lab: Lab, trainer: Trainer, worker: Worker) -> None:
    """A straggler of version 2 is overtaken until it is reset."""
    other = lab.worker()
    (straggler,) = other.claim(1)
    train(trainer, worker, 4)
    other.renew()
    assert straggler.cancel_reason == "stale"


LOST_FUTURES: dict[str, LostFuture] = {
    function.__name__.strip("_"): function
    for function in (
        *(_nothing, _advanced, _batch_sealed, _batch_open, _batch_prefetched, _batches_short_and_over_full, _discarded),
        *(_groups_half_done, _waiting_for_a_retry, _dead, _rejected_and_cancelled, _retried),
        *(_held_by_a_worker_that_is_gone, _stale),
    )
}


@pytest.fixture
def begun(lab: Lab) -> tuple[Trainer, Worker, dict[int, list[str]]]:
    """A run at version 2, with what its two steps trained on."""
    trainer = lab.trainer(
        consumer_batch_size=2,
        max_staleness=2,
        staleness_limit=2,
        max_concurrent_rollouts=8,
        retry_backoff_ms=5_000,
        max_attempts=9,
    )
    worker = lab.worker()
    singles, groups = tasks(24), [Task(id=f"g{i}", samples=3, min_samples=2) for i in range(4)]
    trainer.enqueue([*singles[:8], *groups[:2], *singles[8:14], *groups[2:], *singles[14:]])
    history = dict(enumerate(train(trainer, worker, 2)))
    return trainer, worker, history


@pytest.mark.parametrize("lost_future", LOST_FUTURES)
@pytest.mark.parametrize("how", ["keep", "requeue", "another trainer"])
def test_lost_steps_are_trained_again_and_surviving_ones_never(
    lab: Lab, tmp_path: Path, begun: tuple[Trainer, Worker, dict[int, list[str]]], lost_future: str, how: str
):
    trainer, worker, history = begun
    trainer.checkpoint(tmp_path / "two")
    LOST_FUTURES[lost_future](lab, trainer, worker)

    if how == "another trainer":
        trainer.close()
        trainer = lab.trainer(reopen=True)
    report = trainer.recover(tmp_path / "two", in_flight="requeue" if how == "requeue" else "keep")

    assert (report.version_to, report.missing) == (2, [])
    assert trainer.audit().drift == {}
    history = surviving(history, 2) | train_to_the_end(lab, trainer, worker)
    judge_once(history, ALL)


@pytest.mark.parametrize("lost_future", LOST_FUTURES)
def test_without_a_file_everything_is_trained_again_from_version_0(
    lab: Lab, begun: tuple[Trainer, Worker, dict[int, list[str]]], lost_future: str
):
    trainer, worker, _ = begun
    LOST_FUTURES[lost_future](lab, trainer, worker)
    trainer.recover()
    judge_once(train_to_the_end(lab, trainer, worker), ALL)


@pytest.mark.parametrize("full", [False, True])
def test_what_was_finished_at_the_checkpoint_stays_finished(lab: Lab, tmp_path: Path, full: bool):
    """Discarded, dead, rejected and cancelled before the checkpoint, at its very version."""
    trainer = lab.trainer(consumer_batch_size=2, max_staleness=2, max_concurrent_rollouts=20, halt_after_failures=0)
    worker = lab.worker()
    trainer.enqueue(tasks(16))
    history = dict(enumerate(train(trainer, worker, 2)))
    attempts = worker.claim(2)
    worker.fail(attempts[0], "boom", retry=False)
    worker.reject(attempts[1], "empty")
    ready = [name for name, state in lab.states().items() if state == "ready"][:1]
    trainer.discard(ready)
    trainer.cancel(["t15"])
    finished = {attempts[0].task, attempts[1].task, *ready, "t15"}
    assert len(finished) == 4
    trainer.checkpoint(tmp_path / "file", full=full)
    train(trainer, worker, 2)

    trainer.recover(tmp_path / "file")

    assert {lab.row(name).state for name in finished} == {"dead", "rejected"}
    history = surviving(history, 2) | train_to_the_end(lab, trainer, worker)
    judge_once(history, {f"t{i}" for i in range(16)} - finished)


def test_without_a_file_what_ended_before_the_version_stays_ended(lab: Lab):
    """And what ended from it on begins again: the step at which a task ended tells."""
    trainer, worker = lab.trainer(max_staleness=3, max_concurrent_rollouts=9), lab.worker()
    trainer.enqueue(tasks(14))
    ended: dict[int, str] = {}
    for version in range(4):
        (attempt,) = worker.claim(1)
        worker.fail(attempt, "boom", retry=False)
        ended[version] = attempt.task
        serve(worker, 1)
        train(trainer, worker)
    trainer.recover(version=2)
    assert [lab.row(name).state for name in ended.values()] == ["dead", "dead", "pending", "pending"]


def test_tasks_enqueued_after_the_checkpoint_are_kept_and_so_is_the_cursor(lab: Lab, tmp_path: Path):
    """The server has all that it was given: the loader goes on after it. Rows that it brings again are known."""
    trainer, worker = lab.trainer(max_staleness=1), lab.worker()
    trainer.enqueue(tasks(4), cursor={"epoch": 0, "row": 4})
    history = dict(enumerate(train(trainer, worker, 1)))
    trainer.checkpoint(tmp_path / "file")
    trainer.enqueue([Task(id=f"t{i}") for i in range(4, 8)], cursor={"epoch": 0, "row": 8})
    train(trainer, worker, 6)

    report = trainer.recover(tmp_path / "file")

    assert report.cursor == trainer.cursor == {"epoch": 0, "row": 8}
    again = trainer.enqueue([Task(id=f"t{i}") for i in range(4, 10)], cursor={"epoch": 0, "row": 10})
    assert (again.added, again.existing) == (2, ["t4", "t5", "t6", "t7"])
    judge_once(surviving(history, 1) | train_to_the_end(lab, trainer, worker), [f"t{i}" for i in range(10)])


@pytest.mark.parametrize("lost", [False, True])
def test_blob_and_cursor_are_those_of_the_checkpoint(lab: Lab, tmp_path: Path, lost: bool):
    trainer, worker = lab.trainer(max_staleness=3, max_concurrent_rollouts=4), lab.worker()
    trainer.enqueue(tasks(9), cursor=[1, None, "ü"])
    serve(worker, 1)
    trainer.next_batch(timeout=1)
    trainer.advance(b"weights of 1 \x00\xff")
    trainer.checkpoint(tmp_path / "file", full=True)
    serve(worker, 1)
    trainer.next_batch(timeout=1)
    trainer.advance(b"weights of 2")
    if lost:
        for name in lab.command("KEYS", lab.key("*")):
            lab.command("DEL", name)

    trainer.recover(tmp_path / "file")

    assert trainer.cursor == [1, None, "ü"]
    other = lab.worker()
    (attempt,) = other.claim(1)
    assert (attempt.version, attempt.blob) == (1, b"weights of 1 \x00\xff")
    trainer.recover(tmp_path / "file", blob=b"elsewhere")
    (attempt,) = lab.worker().claim(1)
    assert attempt.blob == b"elsewhere"


def test_either_of_the_kept_checkpoints_recovers_and_older_ones_say_how_much_is_gone(lab: Lab, tmp_path: Path):
    """keep_checkpoints=2."""
    trainer, worker = lab.trainer(keep_checkpoints=2, max_staleness=1), lab.worker()
    trainer.enqueue(tasks(14))
    history: dict[int, list[str]] = {}
    for version in range(1, 10):
        history[version - 1] = train(trainer, worker)[0]
        if version % 3 == 0:
            trainer.checkpoint(tmp_path / f"{version}")
    assert lab.stat("floor") == 6

    before = lab.dump()
    with pytest.raises(Gone) as refused:
        trainer.recover(tmp_path / "3")
    assert (refused.value.fields["version"], refused.value.fields["floor"]) == ("3", "6")
    assert lab.dump() == before

    report = trainer.recover(tmp_path / "6")
    assert report.missing == []
    history = surviving(history, 6)
    for version in range(7, 9):
        history[version - 1] = train(trainer, worker)[0]
    trainer.checkpoint(tmp_path / "8")
    report = trainer.recover(tmp_path / "6")
    assert report.missing == []
    report = trainer.recover(tmp_path / "3", allow_loss=True)
    freed = [name for step in (3, 4, 5) for name in history[step]]
    assert sorted(report.missing) == sorted(freed)
    trainer.enqueue(Task(id=name) for name in report.missing)
    judge_once(surviving(history, 3) | train_to_the_end(lab, trainer, worker), [f"t{i}" for i in range(14)])


def test_the_results_of_lost_steps_are_used_again_where_their_policy_and_bytes_survive(lab: Lab, tmp_path: Path):
    trainer, worker = lab.trainer(consumer_batch_size=1, max_staleness=3, max_concurrent_rollouts=4), lab.worker()
    trainer.enqueue(tasks(6))
    serve(worker)  # four by version 0
    trainer.checkpoint(tmp_path / "file")
    batches = [trainer.next_batch(timeout=1)]
    trainer.advance()
    batches.append(trainer.next_batch(timeout=1))
    attempts = [sample.attempt_id for batch in batches for rollout in batch for sample in rollout.samples]

    report = trainer.recover(tmp_path / "file")

    assert (report.ready_again, report.results_kept, report.requeued) == (2, 4, {})
    again = [trainer.next_batch(timeout=1)]
    trainer.advance()
    again.append(trainer.next_batch(timeout=1))
    assert [sample.attempt_id for batch in again for rollout in batch for sample in rollout.samples] == attempts
    assert [names_of(batch) for batch in again] == [names_of(batch) for batch in batches]
