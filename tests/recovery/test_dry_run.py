"""A dry run says exactly what the recovery then does, and changes nothing."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest

from broker import Task, Trainer
from broker.errors import Gone, Undone
from broker.recovery import recover as flows
from tests.conformance.lab import Lab, tasks
from tests.recovery.story import serve, train
from tests.recovery.test_trained_once import LOST_FUTURES


@pytest.fixture(autouse=True)
def _small_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(flows, "SWEEP_TASKS", 5)


def _compare(lab: Lab, trainer: Trainer, *source: Any, **options: Any) -> None:
    before, known = lab.dump(), (trainer.version, trainer.step_next, trainer.epoch, trainer.cursor, trainer.config)
    said = trainer.recover(*source, dry_run=True, **options)
    assert lab.dump() == before
    assert (trainer.version, trainer.step_next, trainer.epoch, trainer.cursor, trainer.config) == known
    done = trainer.recover(*source, **options)
    assert said.epoch == ""
    assert dataclasses.replace(said, epoch=done.epoch) == done
    assert trainer.audit().drift == {}
    assert (done.accepted[1], done.running[1], done.capacity[1]) == tuple(
        map(lab.stat, ("accepted", "running", "capacity"))
    )


@pytest.mark.parametrize("lost_future", LOST_FUTURES)
@pytest.mark.parametrize("in_flight", ["keep", "requeue"])
def test_a_dry_run_reports_exactly_what_recovery_then_does(lab: Lab, tmp_path: Path, lost_future: str, in_flight: str):
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
    trainer.enqueue([*singles[:8], *groups[:2], *singles[8:14], *groups[2:], *singles[14:]], cursor=28)
    train(trainer, worker, 2)
    trainer.checkpoint(tmp_path / "two")
    LOST_FUTURES[lost_future](lab, trainer, worker)
    trainer.enqueue(tasks(3, "late"), cursor=31)
    for source, options in (((tmp_path / "two",), {}), ((), {"version": 2}), ((), {"version": 40})):
        _compare(lab, trainer, *source, in_flight=in_flight, **options)


@pytest.mark.parametrize("steps", [2, 8])
@pytest.mark.parametrize("full", [False, True])
def test_what_the_server_has_forgotten_is_said_before(lab: Lab, tmp_path: Path, steps: int, full: bool):
    """Below the floor. A full checkpoint's tasks are put back: the dry run says how many."""
    trainer, worker = lab.trainer(max_staleness=3, keep_checkpoints=1), lab.worker()
    trainer.enqueue(tasks(9))
    train(trainer, worker, 1)
    trainer.checkpoint(tmp_path / "one", full=full)
    lost = [names[0] for names in train(trainer, worker, steps)][:-1]  # the last one's bytes are still read
    trainer.checkpoint(tmp_path / "later")
    said = trainer.recover(tmp_path / "one", allow_loss=True, dry_run=True)
    assert (said.missing, said.restored) == (([], len(lost)) if full else (sorted(lost), 0))
    _compare(lab, trainer, tmp_path / "one", allow_loss=True)


def test_a_dry_run_is_refused_as_the_recovery_would_be(lab: Lab, tmp_path: Path):
    trainer, worker = lab.trainer(keep_checkpoints=1), lab.worker()
    trainer.enqueue(tasks(12))
    train(trainer, worker, 2)
    trainer.checkpoint(tmp_path / "two")
    train(trainer, worker, 2)
    trainer.checkpoint(tmp_path / "four")
    before = lab.dump()
    with pytest.raises(Gone):
        trainer.recover(tmp_path / "two", dry_run=True)
    assert lab.dump() == before
    _compare(lab, trainer, tmp_path / "two", allow_loss=True)
    with pytest.raises(Undone):
        trainer.recover(tmp_path / "four", dry_run=True)
    with pytest.raises(Undone):
        trainer.recover(tmp_path / "four")


def test_an_attached_trainer_may_ask_what_a_recovery_would_do(lab: Lab, tmp_path: Path):
    trainer, worker = lab.trainer(), lab.worker()
    trainer.enqueue(tasks(5))
    trainer.checkpoint(tmp_path / "zero")
    train(trainer, worker, 2)
    attached = lab.trainer(attach=True)
    before = lab.dump()
    report = attached.recover(tmp_path / "zero", dry_run=True)
    assert (report.version_from, report.version_to, sum(report.requeued.values())) == (2, 0, 2)
    assert lab.dump() == before


def test_progress_is_told(lab: Lab, tmp_path: Path):
    """Never backwards, never more than there is, and at last all of it."""
    trainer, worker = lab.trainer(), lab.worker()
    trainer.enqueue(tasks(700))
    serve(worker)
    for call in (
        lambda progress: trainer.checkpoint(tmp_path / "file", full=True, progress=progress),
        lambda progress: trainer.recover(tmp_path / "file", dry_run=True, progress=progress),
        lambda progress: trainer.recover(tmp_path / "file", progress=progress),
    ):
        told: list[tuple[int, int]] = []
        call(lambda done, total, told=told: told.append((done, total)))
        assert told == sorted(told)
        assert told[-1] == (700, 700)
