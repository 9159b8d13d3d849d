"""The trainer is killed at every point of checkpoint, commit, recover and advance; its successor recovers from the file on disk."""

from __future__ import annotations

import os
import signal
from contextlib import suppress
from pathlib import Path
from typing import Any, Self

import pytest

from broker import Trainer, Worker
from broker.errors import CheckpointError
from broker.recovery import checkpoint as files
from broker.recovery import recover as flows
from broker.recovery import tasks_file as checkpoint_tasks
from broker.recovery.checkpoint_files import members
from tests.child import finished
from tests.conformance.lab import Lab
from tests.recovery.interruptions import MOMENTS, Killed, kill
from tests.recovery.story import judge_once, serve, surviving, train, train_to_the_end
from tests.recovery.victim import CONFIG, OPERATIONS, run_tasks
from tests.servers import ServerUnderTest

History = dict[int, list[str]]
ALL = [task.id for task in run_tasks()]


@pytest.fixture(autouse=True)
def _small_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that a sweep of some tasks takes several calls."""
    monkeypatch.setattr(flows, "SWEEP_TASKS", 6)


def _begin(lab: Lab, run: str, path: Path, *, full: bool) -> tuple[Trainer, Worker, History]:
    """A run at version 4 with a committed checkpoint of version 2, an older one of version 1, and work in all states."""
    trainer = Trainer(lab.url, run, CONFIG, clock=lab.clock)
    worker = Worker(lab.url, run, clock=lab.clock, heartbeat=False, name="w")
    lab.runs.add(run)
    trainer.enqueue(run_tasks(), cursor="all")
    history: History = {}

    history[0] = train(trainer, worker)[0]
    trainer.checkpoint(path.with_name("older"))
    history[1] = train(trainer, worker)[0]
    trainer.checkpoint(path, full=full)
    history[2] = train(trainer, worker)[0]
    history[3] = train(trainer, worker)[0]
    serve(worker, 2)
    worker.claim(2)
    trainer.next_batch(timeout=1)
    return trainer, worker, history


def _operate(trainer: Trainer, operation: str, path: Path) -> None:
    OPERATIONS[operation](trainer, path)


def _successor(lab: Lab, run: str, path: Path, worker: Worker, history: History) -> None:
    """Opens the run as a new process would, recovers from what is on disk, and trains to the end. Judged by the ledger."""
    with Trainer(lab.url, run, CONFIG, clock=lab.clock) as trainer:
        report = trainer.recover(path)
        assert report.source is not None
        on_disk = files.read_checkpoint(Path(report.source))
        assert report.version_to == on_disk.version == trainer.version
        assert report.missing == []
        assert trainer.cursor == "all"
        assert trainer.audit().drift == {}
        # What would be needed to go back further is kept, too.
        assert lab.command("HGET", f"rb1:{{{run}}}:state", "floor") <= str(on_disk.version).encode()
        rest = train_to_the_end(lab, trainer, worker)
    judge_once(surviving(history, on_disk.version) | rest, ALL)


@pytest.mark.parametrize("moment", MOMENTS)
@pytest.mark.parametrize("operation", OPERATIONS)
def test_a_trainer_killed_at_any_call_loses_nothing(lab: Lab, tmp_path: Path, operation: str, moment: str):
    full = operation.startswith("full")
    k = 0
    while True:
        k += 1
        run, path = f"{lab.run}/{k}", tmp_path / f"{k}" / "broker.json"
        trainer, worker, history = _begin(lab, run, path, full=full)
        try:
            with kill(trainer, at=k, moment=moment) as mortal:
                died = False
                try:
                    _operate(trainer, operation, path)
                except Killed:
                    died = True
            trainer.close()
            _successor(lab, run, path, worker, history)
        finally:
            trainer.close()
            worker.close()
        if not died:
            break
    assert mortal.calls == k - 1
    assert k > {"advance": 1}.get(operation, 6)


@pytest.mark.parametrize("at", range(1, 12, 2))
def test_a_recovery_killed_twice_is_done_by_the_third(lab: Lab, tmp_path: Path, at: int):
    path = tmp_path / "broker.json"
    trainer, worker, history = _begin(lab, lab.run, path, full=False)
    with trainer, worker:
        for moment, k in (("after", at), ("halfway", 12 - at)):
            with Trainer(lab.url, lab.run, CONFIG, clock=lab.clock) as other, suppress(Killed), kill(other, k, moment):
                other.recover(path)
        _successor(lab, lab.run, path, worker, history)


# -- the file ----------------------------------------------------------------------------------------------------------


def _dies_in(monkeypatch: pytest.MonkeyPatch, name: str, at: int, error: BaseException) -> list[int]:
    """Lets the at-th call of a function of `os` raise."""
    real, count = getattr(os, name), [0]

    def mortal(*args: Any, **options: Any) -> Any:
        count[0] += 1
        if count[0] == at:
            raise error
        return real(*args, **options)

    monkeypatch.setattr(os, name, mortal)
    return count


@pytest.mark.parametrize("full", [False, True])
@pytest.mark.parametrize("error", [Killed(), OSError(28, "No space left on device")], ids=["killed", "disk full"])
@pytest.mark.parametrize("place", ["fsync", "replace", "chmod", "open", "fdopen"])
def test_a_death_or_an_error_while_the_file_is_written_leaves_a_whole_one(
    lab: Lab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str, error: BaseException, full: bool
):
    """The old one before the rename, the new one after; and no trace where the process lives on."""
    if lab.server.kind.name == "fakeredis" and isinstance(error, Killed):
        pytest.skip("the server is in the process that dies")
    path = tmp_path / "broker.json"
    trainer, worker, history = _begin(lab, lab.run, path, full=full)
    with trainer, worker:
        before, floor = path.read_bytes(), lab.stat("floor")
        calls = 0
        for at in range(1, 20):
            with monkeypatch.context() as patched:
                count = _dies_in(patched, place, at, error)
                try:
                    trainer.checkpoint(path, full=full, weights=trainer.version)
                except (Killed, CheckpointError):
                    calls += 1
                    failed = True
                else:
                    failed = count[0] >= at
            newest = max(members(path), key=lambda member: member.number)
            after = files.read_checkpoint(newest.path)
            if not failed:
                break
            if newest.version == 2:
                assert newest.path.read_bytes() == before
                assert lab.stat("floor") == floor
            else:
                assert newest.version == 4
            if after.tasks_file is not None:
                assert after.tasks_path is not None
                checkpoint_tasks.verify_tasks_file(after.tasks_path, after.tasks_file)
        else:
            raise AssertionError(f"{place} is called more than 20 times")
        assert calls > 0 or place == "open"
        if isinstance(error, OSError):
            left = {file.name for file in tmp_path.iterdir() if file.name.startswith(".")}
            assert left == set(), f"left behind: {left}"
        trainer.close()
        _successor(lab, lab.run, path, worker, history)


def test_a_disk_that_is_full_while_pieces_are_written_leaves_the_old_file(
    lab: Lab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    path = tmp_path / "broker.json"
    trainer, worker, _ = _begin(lab, lab.run, path, full=False)
    with trainer, worker:
        before, names = path.read_bytes(), sorted(file.name for file in tmp_path.iterdir())
        real = os.fdopen

        def full(*args: Any, **options: Any) -> Any:
            file = real(*args, **options)

            class Full:
                def write(self, piece: bytes) -> int:
                    file.write(piece[: len(piece) // 2])
                    raise OSError(28, "No space left on device")

                def __enter__(self) -> Self:
                    return self

                def __exit__(self, *_: object) -> None:
                    file.close()

            return Full()

        monkeypatch.setattr(os, "fdopen", full)
        with pytest.raises(CheckpointError):
            trainer.checkpoint(path, weights=trainer.version)
        monkeypatch.undo()
        assert path.read_bytes() == before
        assert sorted(file.name for file in tmp_path.iterdir()) == names
        assert trainer.checkpoint(path, weights=trainer.version).version == 4


# -- real processes ----------------------------------------------------------------------------------------------------


def _sigkilled(lab: Lab, run: str, path: Path, operation: str, where: str) -> int:
    """Runs the operation in a process of its own that kills itself there; its exit status."""
    return finished("-m", "tests.recovery.victim", lab.url, run, str(path), operation, where, str(lab.now)).code


@pytest.mark.processes
@pytest.mark.parametrize(
    ("operation", "wheres"),
    [
        ("checkpoint", ["4:after", "fsync:1", "replace:1", "6:after", "7:before"]),
        ("full checkpoint", ["replace:1", "fsync:2"]),
        ("recover", ["1:after", "4:halfway", "8:after"]),
        ("advance", ["1:halfway"]),
    ],
)
def test_a_trainer_killed_with_sigkill_loses_nothing(
    _servers: dict[object, ServerUnderTest], tmp_path: Path, operation: str, wheres: list[str], run: str
):
    server = next(server for server in _servers.values() if server.kind.is_real)
    for number, where in enumerate(wheres):
        path = tmp_path / str(number) / "broker.json"
        with Lab(server, f"{run}/{number}") as lab:
            trainer, worker, history = _begin(lab, lab.run, path, full=operation.startswith("full"))
            with worker:
                trainer.close()
                assert _sigkilled(lab, lab.run, path, operation, where) == -signal.SIGKILL, where
                _successor(lab, lab.run, path, worker, history)
            lab.purge()
