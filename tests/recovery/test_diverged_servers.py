"""The server lost its last writes, and others went on before the checkpoint was recovered: its order numbers are used twice."""

from __future__ import annotations

from pathlib import Path

import pytest

from broker import Task, Trainer, Worker
from broker.errors import Gone
from broker.operator import Operator
from broker.recovery import recover as flows
from tests.conformance.lab import Lab
from tests.recovery.interruptions import Killed, kill
from tests.recovery.story import judge_once, serve, train, train_to_the_end
from tests.recovery.test_lossy_servers import copy_of, put_back


def _rows(first: int, end: int, priority: int = 0) -> list[Task]:
    return [Task(id=f"t{i}", priority=priority) for i in range(first, end)]


def _start(lab: Lab, rows: int) -> tuple[Trainer, Worker]:
    """A run whose loader has enqueued `rows` rows, of which the last two were cancelled."""
    trainer = lab.trainer(consumer_batch_size=1, max_staleness=9, max_concurrent_rollouts=4, keep_checkpoints=5)
    trainer.enqueue(_rows(0, rows), cursor=rows)
    trainer.cancel([f"t{rows - 2}", f"t{rows - 1}"])
    return trainer, lab.worker()


def _load(trainer: Trainer, end: int) -> None:
    """The data loader goes on from the recovered cursor to the end of its data."""
    trainer.enqueue(_rows(trainer.cursor, end), cursor=end)


def test_operators_retries_do_not_hide_that_the_server_forgot_rows(lab: Lab, tmp_path: Path):
    """They number tasks, too; rows that forgotten steps trained are not offered again."""
    trainer, worker = _start(lab, 8)
    copy = copy_of(lab)
    trainer.enqueue(_rows(8, 10, priority=1), cursor=10)
    history = dict(enumerate(train(trainer, worker, 2)))
    assert history == {0: ["t8"], 1: ["t9"]}
    trainer.checkpoint(tmp_path / "two")
    put_back(lab, copy)
    with Operator(lab.url) as operator:
        operator.retry(lab.run, ["t6", "t7"])

    said = lab.trainer(reopen=True).recover(tmp_path / "two", dry_run=True)
    leader = lab.trainer(reopen=True)
    report = leader.recover(tmp_path / "two")

    assert (said.cursor, report.cursor, leader.cursor) == (10, 10, 10)
    _load(leader, 12)
    judge_once(history | train_to_the_end(lab, leader, worker), [f"t{i}" for i in (*range(6), *range(8, 12))])


@pytest.mark.parametrize("steps", [0, 1], ids=["no step forgotten", "a step forgotten"])
@pytest.mark.parametrize("again", [False, True], ids=["once", "recovered twice"])
def test_rows_of_a_trainer_that_did_not_recover_are_not_taken_for_those_of_the_checkpoint(
    lab: Lab, tmp_path: Path, steps: int, again: bool
):
    """Its first rows got the numbers that the checkpoint's history gave to others; the data loader brings them again."""
    trainer, worker = _start(lab, 8)
    copy = copy_of(lab)
    trainer.enqueue(_rows(8, 9, priority=1), cursor=9)
    trainer.retry(["t6", "t7"])
    history = dict(enumerate(train(trainer, worker, 1))) if steps else {}
    trainer.checkpoint(tmp_path / "file")
    put_back(lab, copy)
    stranger = lab.trainer(reopen=True)
    _load(stranger, 11)
    train(stranger, worker, 1)
    stranger.cancel(["t10"])

    said = stranger.recover(tmp_path / "file", dry_run=True)
    leader = lab.trainer(reopen=True)
    report = leader.recover(tmp_path / "file")
    _load(leader, 14)
    if again:
        leader.recover(tmp_path / "file")

    assert (said.dropped, said.cursor) == (report.dropped, report.cursor) == (2 + steps, 9)
    assert (said.finished, said.missing) == (report.finished, report.missing) == (0, [])
    judge_once(history | train_to_the_end(lab, leader, worker), [f"t{i}" for i in range(14)])


def test_results_of_the_time_after_a_recovery_survive_another_one_by_the_same_checkpoint(lab: Lab, tmp_path: Path):
    """Its history is the server's by then: rows that it does not know are newer."""
    trainer, worker = lab.trainer(consumer_batch_size=1, max_staleness=9), lab.worker()
    trainer.enqueue(_rows(0, 2), cursor=2)
    copy = copy_of(lab)
    _load(trainer, 4)
    trainer.checkpoint(tmp_path / "file", full=True)
    put_back(lab, copy)
    leader = lab.trainer(reopen=True)
    assert leader.recover(tmp_path / "file").restored == 2
    _load(leader, 6)
    serve(worker)

    report = leader.recover(tmp_path / "file")

    assert (report.dropped, report.results_kept, report.cursor) == (0, 6, 6)
    judge_once(train_to_the_end(lab, leader, worker), [f"t{i}" for i in range(6)])


@pytest.mark.parametrize("steps", [0, 1], ids=["no step forgotten", "a step forgotten"])
def test_without_a_cursor_nobody_brings_rows_again_and_none_is_dropped(lab: Lab, tmp_path: Path, steps: int):
    trainer, worker = lab.trainer(consumer_batch_size=1, max_staleness=9), lab.worker()
    trainer.enqueue(_rows(0, 8))
    trainer.cancel(["t6", "t7"])
    copy = copy_of(lab)
    trainer.retry(["t6", "t7"])
    history = dict(enumerate(train(trainer, worker, 1))) if steps else {}
    trainer.checkpoint(tmp_path / "file")
    put_back(lab, copy)
    lab.trainer(reopen=True).enqueue(_rows(8, 12))

    leader = lab.trainer(reopen=True)
    for _ in range(2):
        report = leader.recover(tmp_path / "file")
        assert (report.dropped, report.missing) == (0, [])

    judge_once(history | train_to_the_end(lab, leader, worker), [f"t{i}" for i in range(12)])


def test_a_recovery_that_is_begun_again_still_tells_the_rows_of_both_histories_apart(
    lab: Lab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(flows, "SWEEP_TASKS", 3)
    trainer, worker = _start(lab, 8)
    copy = copy_of(lab)
    trainer.enqueue(_rows(8, 9, priority=1), cursor=9)
    trainer.retry(["t6", "t7"])
    history = dict(enumerate(train(trainer, worker, 1)))
    trainer.checkpoint(tmp_path / "file")
    put_back(lab, copy)
    _load(lab.trainer(reopen=True), 20)
    leader = lab.trainer(reopen=True)
    with pytest.raises(Killed), kill(leader, at=4):
        leader.recover(tmp_path / "file")

    leader = lab.trainer(reopen=True)
    leader.recover(tmp_path / "file")
    _load(leader, 20)

    judge_once(history | train_to_the_end(lab, leader, worker), [f"t{i}" for i in range(20)])


@pytest.mark.parametrize("where", ["freed", "discarded"])
def test_what_a_trainer_that_did_not_recover_finished_is_brought_again(lab: Lab, tmp_path: Path, where: str):
    """Also where the server remembers nothing of it but its id; what the surviving steps trained is not."""
    trainer, worker = lab.trainer(consumer_batch_size=1, max_staleness=0, keep_checkpoints=1), lab.worker()
    trainer.enqueue(_rows(0, 4), cursor=4)
    history = dict(enumerate(train(trainer, worker, 1)))
    copy = copy_of(lab)
    _load(trainer, 8)
    history |= dict(enumerate(train(trainer, worker, 3), 1))
    trainer.checkpoint(tmp_path / "file")
    put_back(lab, copy)
    stranger = lab.trainer(reopen=True)
    stranger.enqueue([Task(id="t9", priority=1), *_rows(4, 9)], cursor=10)
    if where == "discarded":
        stranger.cancel(["t8", "t9"])
    else:
        assert train(stranger, worker, 3)[0] == ["t9"]
        stranger.checkpoint(tmp_path / "other")
        assert "t9" not in lab.states()

    leader = lab.trainer(reopen=True)
    leader.recover(tmp_path / "file")
    _load(leader, 10)

    judge_once(history | train_to_the_end(lab, leader, worker), [f"t{i}" for i in range(10)])


@pytest.mark.parametrize("rows", [8, 9], ids=["new to the server", "known to it"])
def test_a_row_that_was_cancelled_by_others_before_the_version_of_the_checkpoint_is_pending_again(
    lab: Lab, tmp_path: Path, rows: int
):
    """Their step of that number is not the checkpoint's."""
    trainer, worker = lab.trainer(consumer_batch_size=1, max_staleness=9), lab.worker()
    trainer.enqueue(_rows(0, rows), cursor=rows)
    copy = copy_of(lab)
    _load(trainer, 9)
    history = dict(enumerate(train(trainer, worker, 1)))
    trainer.checkpoint(tmp_path / "one")
    put_back(lab, copy)
    stranger = lab.trainer(reopen=True)
    _load(stranger, 10)
    stranger.cancel(["t8", "t9"])

    leader = lab.trainer(reopen=True)
    leader.recover(tmp_path / "one")
    _load(leader, 10)

    judge_once(history | train_to_the_end(lab, leader, worker), [f"t{i}" for i in range(10)])


def test_after_a_failover_a_still_older_checkpoint_brings_back_what_the_forgotten_steps_trained(
    lab: Lab, tmp_path: Path
):
    trainer, worker = lab.trainer(consumer_batch_size=1, max_staleness=9, keep_checkpoints=5), lab.worker()
    trainer.enqueue(_rows(0, 4), cursor=4)
    history = dict(enumerate(train(trainer, worker, 1)))
    trainer.checkpoint(tmp_path / "one")
    _load(trainer, 10)
    copy = copy_of(lab)
    train(trainer, worker, 5)
    trainer.checkpoint(tmp_path / "six")
    put_back(lab, copy)
    leader = lab.trainer(reopen=True)
    leader.recover(tmp_path / "six")

    report = leader.recover(tmp_path / "one")

    leader.enqueue(Task(id=name) for name in report.missing)
    _load(leader, 10)
    judge_once(history | train_to_the_end(lab, leader, worker), [f"t{i}" for i in range(10)])


def test_a_forgotten_discard_is_undone_by_an_older_checkpoint(lab: Lab, tmp_path: Path):
    """The server lost neither steps nor numbers; that the task had ended it knew from the newer checkpoint alone."""
    trainer, worker = lab.trainer(consumer_batch_size=1, max_staleness=9, keep_checkpoints=5), lab.worker()
    trainer.enqueue(_rows(0, 4), cursor=4)
    trainer.checkpoint(tmp_path / "older")
    _load(trainer, 6)
    copy = copy_of(lab)
    trainer.cancel(["t5"])
    trainer.checkpoint(tmp_path / "newer")
    put_back(lab, copy)
    leader = lab.trainer(reopen=True)
    assert leader.recover(tmp_path / "newer").finished == 1

    assert leader.recover(tmp_path / "older").cursor == 4

    _load(leader, 6)
    judge_once(train_to_the_end(lab, leader, worker), [f"t{i}" for i in range(6)])


def test_a_version_alone_cannot_bring_back_what_the_server_forgot(lab: Lab, tmp_path: Path):
    trainer, worker = lab.trainer(consumer_batch_size=1, max_staleness=9, keep_checkpoints=5), lab.worker()
    trainer.enqueue(_rows(0, 10), cursor=10)
    copy = copy_of(lab)
    train(trainer, worker, 4)
    trainer.checkpoint(tmp_path / "four")
    put_back(lab, copy)
    leader = lab.trainer(reopen=True)
    leader.recover(tmp_path / "four")
    with pytest.raises(Gone):
        leader.recover(version=2)


def test_rows_that_the_other_history_finished_and_freed_come_again(lab: Lab, tmp_path: Path):
    """The walk of the property tests hardly gets there: drop_finished."""
    trainer = lab.trainer(consumer_batch_size=1, max_staleness=9, max_concurrent_rollouts=4, keep_checkpoints=1)
    trainer.enqueue(_rows(0, 3))
    copy, worker = copy_of(lab), lab.worker()
    trainer.enqueue(_rows(3, 6, priority=1))
    assert train(trainer, worker, 3) == [["t3"], ["t4"], ["t5"]]
    trainer.checkpoint(tmp_path / "file")
    put_back(lab, copy)
    leader, worker = lab.trainer(reopen=True), lab.worker()
    assert train(leader, worker, 3) == [["t0"], ["t1"], ["t2"]]
    leader.checkpoint(tmp_path / "other")
    for _ in range(3):
        leader.advance(allow_empty=True)
    assert lab.states() == {}, "they are freed"

    report = leader.recover(tmp_path / "file")

    assert report.missing == ["t0", "t1", "t2"]
    assert leader.enqueue(_rows(0, 3)).added == 3
