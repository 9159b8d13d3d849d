"""A trainer that is replaced while it writes a checkpoint harms no file of its successor, wherever it was frozen."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from broker import Trainer, Worker
from broker.errors import CheckpointError, Fenced
from broker.operator import Operator
from broker.recovery import checkpoint as files
from broker.recovery import recover as flows
from broker.recovery.checkpoint import read_checkpoint
from broker.recovery.checkpoint_files import members
from broker.recovery.recover import RecoveryReport
from tests.child import Child, is_stopped
from tests.conformance.lab import Lab, tasks
from tests.recovery.frozen import POINTS, TASKS_POINT, freeze_at
from tests.recovery.story import judge_once, serve, surviving, train, train_to_the_end
from tests.servers import ServerUnderTest

History = dict[int, list[str]]
ALL = [f"t{i}" for i in range(16)]
#: Points at which the checkpoint is not yet committed: what comes after them is refused.
UNCOMMITTED = [point for point in POINTS if not (point.startswith("before the link") or point == "before the deletion")]


def _begin(lab: Lab, path: Path, *, full: bool) -> tuple[Trainer, Worker, History]:
    """A run at version 4 with checkpoints of versions 1 and 2."""
    trainer = lab.trainer(max_staleness=2, max_concurrent_rollouts=4, keep_checkpoints=2)
    worker = lab.worker()
    trainer.enqueue(tasks(16), cursor=16)
    history: History = {}
    for version in (1, 2):
        history |= {version - 1: train(trainer, worker)[0]}
        trainer.checkpoint(path, full=full)
    history |= dict(enumerate(train(trainer, worker, 2), 2))
    return trainer, worker, history


def _skip_what_is_not_reached(point: str, *, full: bool) -> None:
    if point == TASKS_POINT and not full:
        pytest.skip("a plain checkpoint has no tasks")


def _contents(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in folder.iterdir() if not file.is_symlink()}


@pytest.mark.parametrize("full_after", [False, True], ids=["then plain", "then full"])
@pytest.mark.parametrize("full", [False, True], ids=["plain", "full"])
@pytest.mark.parametrize("point", POINTS)
def test_a_trainer_frozen_in_its_checkpoint_hits_nothing_of_its_successors(
    lab: Lab, tmp_path: Path, point: str, full: bool, full_after: bool
):
    _skip_what_is_not_reached(point, full=full)
    path = tmp_path / "broker.json"
    frozen, worker, history = _begin(lab, path, full=full)
    seen: dict[str, Any] = {}

    def succeed() -> None:
        successor = lab.trainer(reopen=True)
        report = successor.recover(path)
        steps = {report.version_to: train(successor, worker)[0]}
        made = successor.checkpoint(path, full=full_after)
        seen.update(history=surviving(history, report.version_to) | steps, made=made, files=_contents(tmp_path))

    with freeze_at(point, succeed):
        if point in UNCOMMITTED:
            with pytest.raises(Fenced):
                frozen.checkpoint(path, full=full)
        else:
            assert frozen.checkpoint(path, full=full).version == 4

    made, after = seen["made"], _contents(tmp_path)
    for name, content in seen["files"].items():
        if name.startswith(made.path.name):
            assert after[name] == content, f"{name} is the successor's"
    assert path.readlink() == Path(made.path.name)
    third = lab.trainer(reopen=True)
    report = third.recover(path)
    assert (report.source, report.version_to, report.missing) == (str(made.path), made.version, [])
    judge_once(seen["history"] | train_to_the_end(lab, third, worker), ALL)


def _lose_everything(lab: Lab) -> None:
    with Operator(lab.url) as operator:
        operator.purge(lab.run)


@pytest.mark.parametrize("full", [False, True], ids=["plain", "full"])
@pytest.mark.parametrize("point", POINTS)
def test_an_empty_server_is_refilled_from_the_successors_file(lab: Lab, tmp_path: Path, point: str, full: bool):
    """All that the server knew is gone: the files alone say which is the newest."""
    _skip_what_is_not_reached(point, full=full)
    path = tmp_path / "broker.json"
    frozen, worker, history = _begin(lab, path, full=full)
    seen: dict[str, Any] = {}

    def succeed() -> None:
        successor = lab.trainer(reopen=True)
        report = successor.recover(path)
        steps = {report.version_to: train(successor, worker)[0]}
        seen.update(made=successor.checkpoint(path, full=True), history=surviving(history, report.version_to) | steps)

    with freeze_at(point, succeed):
        if point in UNCOMMITTED:
            with pytest.raises(Fenced):
                frozen.checkpoint(path, full=full)
        else:
            frozen.checkpoint(path, full=full)
    _lose_everything(lab)
    third = lab.trainer(max_staleness=2, max_concurrent_rollouts=4, keep_checkpoints=2)
    report = third.recover(path)
    assert (report.source, report.missing) == (str(seen["made"].path), [])
    assert report.restored == 16 - seen["made"].version
    judge_once(seen["history"] | train_to_the_end(lab, third, lab.worker()), ALL)


@pytest.mark.parametrize("recovers", [False, True], ids=["opens", "recovers"])
@pytest.mark.parametrize("point", UNCOMMITTED)
def test_two_trainers_of_the_same_epoch_number(lab: Lab, tmp_path: Path, point: str, recovers: bool):
    """A server that lost everything gives the number again, to another token. The second one's file is the one."""
    path = tmp_path / "broker.json"
    frozen, _, _ = _begin(lab, path, full=True)
    number = frozen.epoch.partition(".")[0]
    seen: dict[str, Any] = {}

    def begin_anew() -> None:
        _lose_everything(lab)
        second = lab.trainer(max_staleness=2, max_concurrent_rollouts=4, keep_checkpoints=2)
        assert second.epoch.partition(".")[0] == number
        assert second.epoch != frozen.epoch
        worker = lab.worker()
        if recovers:
            second.recover(path)
        else:
            second.enqueue(tasks(16), cursor=16)
        train(second, worker)
        seen.update(made=second.checkpoint(path, full=True))

    with freeze_at(point, begin_anew), pytest.raises(Fenced):
        frozen.checkpoint(path, full=True)
    third = lab.trainer(reopen=True)
    assert third.recover(path).source == str(seen["made"].path)


def test_the_file_that_a_successor_recovered_from_stays(lab: Lab, tmp_path: Path):
    """The fenced trainer writes its version again: the file of that version, which its successor stands on, is whole."""
    path = tmp_path / "broker.json"
    frozen, worker, history = _begin(lab, path, full=False)
    first = frozen.checkpoint(path, full=True)
    assert first.path is not None
    successor: list[Trainer] = []

    def succeed() -> None:
        successor.append(lab.trainer(reopen=True))
        assert successor[0].recover(path).source == str(first.path)

    before = _contents(tmp_path)
    with freeze_at("before the rename", succeed), pytest.raises(Fenced):
        frozen.checkpoint(path)
    after = _contents(tmp_path)
    assert {name: after.get(name) for name in before} == before
    judge_once(history | train_to_the_end(lab, successor[0], worker), ALL)


def test_a_fenced_trainer_that_is_told_before_it_writes_leaves_no_trace(lab: Lab, tmp_path: Path):
    path = tmp_path / "broker.json"
    fenced, _, _ = _begin(lab, path, full=True)
    lab.trainer(reopen=True)
    before = _contents(tmp_path)
    for full in (False, True):
        with pytest.raises(Fenced):
            fenced.checkpoint(path, full=full)
    assert _contents(tmp_path) == before


def test_a_temporary_file_of_a_dead_trainer_is_cleared_away_and_its_ghost_is_told_that_it_is_fenced(
    lab: Lab, tmp_path: Path
):
    path = tmp_path / "broker.json"
    frozen, worker, _ = _begin(lab, path, full=True)

    def succeed() -> None:
        assert any(file.name.endswith(".tmp") for file in tmp_path.iterdir())
        successor = lab.trainer(reopen=True)
        successor.recover(path)
        for _ in range(2):  # by its second number it is later than the frozen one's
            train(successor, worker)
            successor.checkpoint(path, full=True)
        assert not any(file.name.endswith(".tmp") for file in tmp_path.iterdir())

    with freeze_at("before the rename", succeed), pytest.raises(Fenced):
        frozen.checkpoint(path)


# -- real processes ----------------------------------------------------------------------------------------------------


@pytest.mark.processes
@pytest.mark.parametrize("full", [False, True], ids=["plain", "full"])
def test_a_process_stopped_in_its_checkpoint_hits_nothing_of_its_successors(
    _servers: dict[object, ServerUnderTest], tmp_path: Path, run: str, full: bool
):
    server = next(server for server in _servers.values() if server.kind.is_real)
    for number, point in enumerate(point for point in POINTS if full or point != TASKS_POINT):
        path = tmp_path / str(number) / "broker.json"
        with Lab(server, f"{run}/{number}") as lab:
            first, worker, history = _begin(lab, path, full=full)
            first.close()
            words = [lab.url, lab.run, str(path), point, str(lab.now), *(["full"] if full else [])]
            with Child("-m", "tests.recovery.frozen", *words) as process:
                process.wait_until(lambda process=process: is_stopped(process.pid), f"it is stopped {point}")
                successor = lab.trainer(reopen=True)
                report = successor.recover(path)
                steps = {report.version_to: train(successor, worker)[0]}
                made = successor.checkpoint(path, full=full)
                process.send(signal.SIGCONT)
                ended = process.end()
            told = (ended.out + ended.err).strip()
            assert told == ("Fenced" if point in UNCOMMITTED else "version 4"), point
            assert made.path is not None
            assert path.readlink() == Path(made.path.name), point
            third = lab.trainer(reopen=True)
            assert third.recover(path).source == str(made.path), point
            judge_once(surviving(history, report.version_to) | steps | train_to_the_end(lab, third, worker), ALL)
            lab.purge()


# -- which file of a family --------------------------------------------------------------------------------------------


def _saved(trainer: Trainer, worker: Worker, path: Path, steps: int = 1, *, full: bool = False) -> Path:
    train(trainer, worker, steps)
    made = trainer.checkpoint(path, full=full)
    assert made.path is not None
    return made.path


@pytest.fixture
def several(lab: Lab, tmp_path: Path) -> tuple[Trainer, Worker, list[Path], Path]:
    """A run at version 3 with checkpoints of 1, 2 and 3 under one name."""
    trainer = lab.trainer(max_staleness=2, max_concurrent_rollouts=4, keep_checkpoints=3)
    worker = lab.worker()
    trainer.enqueue(tasks(16), cursor=16)
    path = tmp_path / "broker.json"
    return trainer, worker, [_saved(trainer, worker, path) for _ in range(3)], path


def test_files_below_the_floor_are_deleted_with_their_tasks(lab: Lab, tmp_path: Path):
    trainer, worker, path = lab.trainer(keep_checkpoints=2, max_staleness=2), lab.worker(), tmp_path / "broker.json"
    trainer.enqueue(tasks(9))
    kept: list[Path] = []
    for _ in range(4):
        kept = [*kept, _saved(trainer, worker, path, full=True)][-2:]
        left = {file.name for file in tmp_path.iterdir() if not file.is_symlink()}
        tasks_files = {str(read_checkpoint(file).tasks_path) for file in kept}
        assert left == {file.name for file in kept} | {Path(name).name for name in tasks_files}
    again = trainer.checkpoint(path)
    assert again.path not in kept
    assert {member.path for member in members(path)} == {kept[0], again.path}, "the same version again takes its place"


def test_a_file_that_a_recovery_undid_is_passed_over(several: tuple[Trainer, Worker, list[Path], Path]):
    trainer, worker, made, path = several
    assert trainer.recover(made[1]).version_to == 2
    report = trainer.recover(path)
    assert (report.version_to, report.source) == (2, str(made[1]))
    newest = _saved(trainer, worker, path)
    report = trainer.recover(path, dry_run=True)
    assert (report.version_to, report.source) == (3, str(newest))


def test_the_name_of_one_file_stands_for_that_file(several: tuple[Trainer, Worker, list[Path], Path]):
    trainer, _, made, path = several
    assert trainer.recover(made[1], dry_run=True).source == str(made[1])
    assert trainer.recover(path, dry_run=True).source == str(made[2])
    with pytest.raises(CheckpointError, match="the name of one checkpoint"):
        trainer.checkpoint(made[1])


def test_a_damaged_newest_file_is_told_and_another_is_named(several: tuple[Trainer, Worker, list[Path], Path]):
    trainer, _, made, path = several
    made[2].write_bytes(made[2].read_bytes()[:-40])
    with pytest.raises(CheckpointError) as told:
        trainer.recover(path, missing_ok=True)
    assert f"the checkpoint {made[2]} is not whole" in str(told.value)
    assert f"version 2 can be recovered from {made[1]}" in str(told.value)
    made[1].write_bytes(b"")
    with pytest.raises(CheckpointError, match="version 1 can be recovered"):
        trainer.recover(path)
    assert trainer.version == 3
    assert trainer.recover(made[0]).version_to == 1


def test_a_file_that_is_not_what_its_name_says_is_refused(several: tuple[Trainer, Worker, list[Path], Path]):
    trainer, _, made, path = several
    made[2].write_bytes(made[0].read_bytes())
    with pytest.raises(CheckpointError, match="not what its name says"):
        trainer.recover(path)


def test_without_its_link_a_family_is_there_all_the_same(several: tuple[Trainer, Worker, list[Path], Path]):
    trainer, _, made, path = several
    path.unlink()
    assert trainer.recover(path, missing_ok=True).source == str(made[2])
    for file in made:
        file.unlink()
    assert trainer.recover(path, missing_ok=True, allow_loss=True).version_to == 0


def test_a_link_that_leads_nowhere_is_not_taken_for_no_checkpoint(
    several: tuple[Trainer, Worker, list[Path], Path], tmp_path: Path
):
    trainer, _, _, path = several
    (tmp_path / "moved").mkdir()
    path.rename(tmp_path / "moved" / "broker.json")
    with pytest.raises(CheckpointError, match=r"is a link to broker\.json\.3\.e1-.*, which is not there"):
        trainer.recover(tmp_path / "moved" / "broker.json", missing_ok=True)


def test_a_copy_works_alone_under_any_name(several: tuple[Trainer, Worker, list[Path], Path], tmp_path: Path):
    trainer, worker, made, path = several
    (tmp_path / "kept").mkdir()
    for name in ("broker.json", "of step 3"):
        copy = tmp_path / "kept" / name
        copy.write_bytes(path.read_bytes())
        assert trainer.recover(copy, dry_run=True).source == str(copy)
    whole = tmp_path / "whole"
    whole.mkdir()
    for file in [*made, path]:  # as a tool that follows links does
        (whole / file.name).write_bytes(file.read_bytes())
    assert trainer.recover(whole / "broker.json", dry_run=True).source == str(whole / made[2].name)
    newest = _saved(trainer, worker, tmp_path / "kept" / "broker.json")
    assert trainer.recover(tmp_path / "kept" / "broker.json", dry_run=True).source == str(newest), "later than the copy"


def test_a_link_of_a_users_own_leads_to_the_family(several: tuple[Trainer, Worker, list[Path], Path], tmp_path: Path):
    trainer, _, made, path = several
    (tmp_path / "latest").symlink_to(path)
    (tmp_path / "pinned").symlink_to(made[0])
    assert trainer.recover(tmp_path / "latest", dry_run=True).source == str(made[2])
    assert trainer.recover(tmp_path / "pinned", dry_run=True).source == str(made[0])


def test_where_no_links_can_be_made_there_is_none(lab: Lab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def refused(*_: Any, **__: Any) -> None:
        raise PermissionError(1, "ScriptCall not permitted")

    monkeypatch.setattr(os, "symlink", refused)
    trainer, worker, path = lab.trainer(), lab.worker(), tmp_path / "broker.json"
    trainer.enqueue(tasks(4))
    newest = _saved(trainer, worker, path)
    assert [file.name for file in tmp_path.iterdir()] == [newest.name]
    assert trainer.recover(path, missing_ok=True).source == str(newest)


def test_a_folder_for_each_step(lab: Lab, tmp_path: Path):
    trainer, worker = lab.trainer(keep_checkpoints=3, max_staleness=2), lab.worker()
    trainer.enqueue(tasks(6))
    made = [_saved(trainer, worker, tmp_path / f"step{n}" / "broker.json") for n in range(3)]
    for n in (2, 1, 0):
        report = trainer.recover(tmp_path / f"step{n}" / "broker.json")
        assert (report.source, report.version_to) == (str(made[n]), n + 1)


# -- files of the release before ---------------------------------------------------------------------------------------


OLD = Path(__file__).parent / "old_files"


def _copied(name: str, folder: Path) -> Path:
    for file in OLD.glob(f"{name}*"):
        (folder / file.name).write_bytes(file.read_bytes())
    return folder / name


@pytest.mark.parametrize("name", ["plain.json", "full.json"])
def test_a_file_of_the_release_before_opens(lab: Lab, tmp_path: Path, name: str):
    lab.run = "old"
    path = _copied(name, tmp_path)
    trainer = lab.trainer(consumer_batch_size=2, max_staleness=1)
    report = trainer.recover(path, missing_ok=True)
    assert (report.version_to, report.source, report.cursor) == (2, str(path), {"row": 8})
    assert (report.restored, len(report.missing)) == ((4, 0) if name == "full.json" else (0, 4))


def test_the_release_befores_file_becomes_one_of_the_family(lab: Lab, tmp_path: Path):
    """It is kept as long as it may be needed, and its tasks with it."""
    lab.run = "old"
    path = _copied("full.json", tmp_path)
    tasks_file = next(tmp_path.glob("*.tasks"))
    trainer, worker = lab.trainer(consumer_batch_size=2, max_staleness=1), lab.worker()
    trainer.recover(path)
    trainer.checkpoint(tmp_path / "other.json")  # this server knows of a checkpoint of that version
    trainer.enqueue(tasks(6, prefix="more"))
    newest = _saved(trainer, worker, path)
    assert path.readlink() == Path(newest.name)
    old = next(member for member in members(path) if member.number == 0)
    assert read_checkpoint(old.path).version == 2
    assert trainer.recover(path, dry_run=True).source == str(newest)
    assert trainer.recover(old.path, dry_run=True).version_to == 2
    for _ in range(2):
        _saved(trainer, worker, path)
    assert not old.path.exists()
    assert not tasks_file.exists()


def test_a_plain_file_of_a_later_epoch_is_the_newest(several: tuple[Trainer, Worker, list[Path], Path], lab: Lab):
    """The release before was run again, and replaced the link by its file."""
    trainer, worker, _, path = several
    trainer.close()
    later = lab.trainer(reopen=True)
    made = _saved(later, worker, path)
    document = read_checkpoint(made)
    path.unlink()
    made.unlink()
    files.write_checkpoint(_numberless(document), path)
    assert later.recover(path, dry_run=True).source == str(path)


def _numberless(made: files.Checkpoint) -> files.Checkpoint:
    from dataclasses import replace

    return replace(made, number=0)


# -- operators ---------------------------------------------------------------------------------------------------------


def _operators(lab: Lab, path: Path, **options: Any) -> Path:
    with Operator(lab.url) as operator:
        made = operator.checkpoint(lab.run, path, **options)
    assert made.path is not None
    return made.path


def test_checkpoints_of_operators_leave_the_trainers_recoverable(lab: Lab, tmp_path: Path):
    """They neither count among those that are kept, nor raise the floor."""
    trainer, worker = lab.trainer(keep_checkpoints=2, max_staleness=2), lab.worker()
    trainer.enqueue(tasks(12))
    mine = _saved(trainer, worker, tmp_path / "broker.json")
    for _ in range(3):
        train(trainer, worker)
        _operators(lab, tmp_path / "by hand.json")
    assert lab.stat("floor") == 0 or lab.stat("floor") == 1
    assert trainer.stats().operator_checkpoints == [4, 3, 2]
    assert trainer.recover(mine).version_to == 1


def test_an_operators_checkpoint_is_recoverable_until_the_floor_has_passed_it(lab: Lab, tmp_path: Path):
    from broker.errors import Gone

    trainer, worker = lab.trainer(keep_checkpoints=1, max_staleness=2), lab.worker()
    trainer.enqueue(tasks(12))
    train(trainer, worker)
    theirs = _operators(lab, tmp_path / "by hand.json")
    _saved(trainer, worker, tmp_path / "broker.json", steps=2)
    assert trainer.stats().operator_checkpoints == []
    with pytest.raises(Gone, match="cannot recover to version 1, the oldest one still recoverable is 3"):
        trainer.recover(theirs)
    assert theirs.exists(), "a trainer deletes no operator's file"


def test_a_trainers_file_goes_before_an_operators_of_the_same_name(lab: Lab, tmp_path: Path):
    trainer, worker, path = lab.trainer(keep_checkpoints=3, max_staleness=2), lab.worker(), tmp_path / "broker.json"
    trainer.enqueue(tasks(12))
    train(trainer, worker)
    theirs = _operators(lab, path)
    report: RecoveryReport = trainer.recover(path, dry_run=True)
    assert (report.source, report.source_by_operator) == (str(theirs), True), "there is no other"
    assert path.readlink() == Path(theirs.name)
    mine = _saved(trainer, worker, path)
    train(trainer, worker)
    later = _operators(lab, path)
    assert path.readlink() == Path(mine.name)
    report = trainer.recover(path, dry_run=True)
    assert (report.source, report.source_by_operator, report.version_to) == (str(mine), False, 2)
    assert trainer.recover(later, dry_run=True).version_to == 3


def test_a_commit_of_an_operator_that_a_recovery_undid_is_refused(lab: Lab, tmp_path: Path):
    """A recovery went back, and the run on to the same version again, while the operator wrote."""
    from broker.errors import Undone

    trainer, worker, path = lab.trainer(keep_checkpoints=3, max_staleness=2), lab.worker(), tmp_path / "broker.json"
    trainer.enqueue(tasks(12))
    mine = _saved(trainer, worker, path)
    train(trainer, worker)

    def go_back() -> None:
        trainer.recover(mine)
        train(trainer, worker)

    with freeze_at("before the commit", go_back), pytest.raises(Undone):
        _operators(lab, tmp_path / "by hand.json")
    assert trainer.stats().operator_checkpoints == []


# -- what a checkpoint that is refused is told -------------------------------------------------------------------------


def _while_it_is_made(lab: Lab, call: Callable[[], Any], meanwhile: Callable[[], Any]) -> str:
    from broker.errors import BrokerError

    with freeze_at("in the scan", meanwhile), pytest.raises(BrokerError) as told:
        call()
    return str(told.value)


@pytest.mark.parametrize("by_operator", [False, True], ids=["trainer", "operator"])
def test_what_happens_while_a_checkpoint_is_made_is_told_in_its_own_words(lab: Lab, tmp_path: Path, by_operator: bool):
    trainer, worker, path = lab.trainer(keep_checkpoints=3, max_staleness=2), lab.worker(), tmp_path / "broker.json"
    trainer.enqueue(tasks(12))
    mine = _saved(trainer, worker, path)

    def make() -> Any:
        return _operators(lab, path) if by_operator else trainer.checkpoint(path)

    told = _while_it_is_made(lab, make, lambda: train(trainer, worker))
    assert told.startswith(f"run {lab.run} went from version 1 to version 2 while its checkpoint was made: ")
    assert told.endswith("[EARLY]")
    serve(worker)

    def take_over() -> None:
        successor = lab.trainer(reopen=True)
        successor.recover(mine)
        train(successor, worker)

    told = _while_it_is_made(lab, make, take_over)
    epoch = lab.trainer(attach=True).epoch
    if not by_operator:
        assert told.startswith(f"another trainer opened run {lab.run}, epoch {epoch} is in force: ")
        assert told.endswith("[FENCED]")
    else:
        assert told.startswith(f"another trainer, epoch {epoch}, opened run {lab.run} while its checkpoint was made: ")
        assert told.endswith("[EARLY]")


def test_a_recovery_under_way_is_told_as_one(lab: Lab, tmp_path: Path):
    from tests.recovery.interruptions import Killed, kill

    trainer, worker, path = lab.trainer(keep_checkpoints=3, max_staleness=2), lab.worker(), tmp_path / "broker.json"
    trainer.enqueue(tasks(12))
    mine = _saved(trainer, worker, path)
    train(trainer, worker)

    def begin() -> None:
        with kill(trainer, 6), pytest.raises(Killed):
            trainer.recover(mine)

    told = _while_it_is_made(lab, lambda: _operators(lab, path), begin)
    assert told.startswith("the run is being recovered to version 1: ")
    assert flows.SWEEP_TASKS > 0
    trainer.recover(mine)
