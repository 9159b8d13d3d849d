"""Recovery that is interrupted, run again, raced for, or seen by a trainer that was thought dead."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from broker import Task, Trainer, Worker
from broker.errors import BrokerError, Fenced, Recovering
from broker.protocol import recovery
from broker.protocol.recovery import Begin
from broker.protocol.trainer import trainer_call_id
from broker.recovery import recover as flows
from broker.recovery.recover import RecoveryReport
from tests.conformance.lab import Lab, tasks
from tests.recovery.interruptions import Killed, kill
from tests.recovery.story import judge_once, serve, surviving, train, train_to_the_end

ALL = [f"t{i}" for i in range(20)]


@pytest.fixture(autouse=True)
def _small_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that a sweep of some tasks takes several calls."""
    monkeypatch.setattr(flows, "SWEEP_TASKS", 3)


@pytest.fixture
def lost(lab: Lab, tmp_path: Path) -> tuple[Trainer, Worker, dict[int, list[str]], Path]:
    """A run at version 5 with a checkpoint of version 2."""
    trainer = lab.trainer(max_staleness=2, max_concurrent_rollouts=4, keep_checkpoints=5)
    worker = lab.worker()
    trainer.enqueue(tasks(20))
    history = dict(enumerate(train(trainer, worker, 2)))
    path = tmp_path / "broker.json"
    trainer.checkpoint(path)
    train(trainer, worker, 3)
    return trainer, worker, history, path


@pytest.mark.parametrize("times", [2, 3])
def test_recovering_again_changes_nothing_more(
    lab: Lab, lost: tuple[Trainer, Worker, dict[int, list[str]], Path], times: int
):
    trainer, worker, history, path = lost
    trainer.recover(path)
    states, counters = lab.states(), {name: lab.stat(name) for name in ("accepted", "running", "capacity", "version")}
    for _ in range(times):
        report = trainer.recover(path)
        assert lab.states() == states
        assert {name: lab.stat(name) for name in counters} == counters
        assert (report.requeued, report.ready_again, report.finished, report.missing) == ({}, 0, 0, [])
    judge_once(surviving(history, 2) | train_to_the_end(lab, trainer, worker), ALL)


@pytest.mark.parametrize("same", [True, False])
def test_a_recovery_that_was_interrupted_is_run_again_by_either_trainer(
    lab: Lab, lost: tuple[Trainer, Worker, dict[int, list[str]], Path], same: bool
):
    """During a recovery the trainer's calls are refused, and workers may still submit."""
    trainer, worker, history, path = lost
    held = worker.claim(1)
    with pytest.raises(Killed), kill(trainer, at=6):
        trainer.recover(path)
    assert lab.stat("recovering") == 2
    successor = trainer if same else lab.trainer(reopen=True)
    for call in (
        lambda: successor.next_batch(timeout=0),
        lambda: successor.enqueue(Task(id="new")),
        lambda: successor.advance(allow_empty=True),
        lambda: successor.discard(["t5"]),
    ):
        with pytest.raises(Recovering):
            call()
    assert worker.claim(4) == []
    assert worker.claim_reason == "recovering"
    for attempt in held:
        worker.submit(attempt, b"x")

    successor.recover(path)

    judge_once(surviving(history, 2) | train_to_the_end(lab, successor, worker), ALL)


def test_a_recovery_to_a_lower_version_may_follow_one_that_was_interrupted(
    lab: Lab, lost: tuple[Trainer, Worker, dict[int, list[str]], Path], tmp_path: Path
):
    trainer, worker, history, path = lost
    trainer.recover(path)
    history = surviving(history, 2) | dict(enumerate(train(trainer, worker, 2), 2))
    trainer.checkpoint(tmp_path / "four")
    train(trainer, worker, 2)
    with pytest.raises(Killed), kill(trainer, at=6):
        trainer.recover(tmp_path / "four")
    other = lab.trainer(reopen=True)
    other.recover(path)
    judge_once(surviving(history, 2) | train_to_the_end(lab, other, worker), ALL)


def test_of_two_trainers_that_race_to_recover_one_is_fenced(
    lab: Lab, lost: tuple[Trainer, Worker, dict[int, list[str]], Path]
):
    """Both open, both recover at the same time, call by call in every order that the threads come to."""
    _, worker, history, path = lost
    racers = [lab.trainer(reopen=True), lab.trainer(reopen=True)]
    start, outcomes = threading.Barrier(2), dict[int, RecoveryReport | BrokerError]()

    def race(which: int) -> None:
        start.wait(10)
        try:
            outcomes[which] = racers[which].recover(path)
        except BrokerError as error:
            outcomes[which] = error

    threads = [threading.Thread(target=race, args=(which,)) for which in (0, 1)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert len(outcomes) == 2
    # Both may come through, one after the other; then the first is fenced from its next call on.
    assert all(isinstance(outcome, RecoveryReport | Fenced) for outcome in outcomes.values()), outcomes
    winner = next(racer for racer in racers if racer.epoch == lab.call(_epoch))
    loser = next(racer for racer in racers if racer is not winner)
    with pytest.raises(Fenced):
        loser.next_batch(timeout=0)
    judge_once(surviving(history, 2) | train_to_the_end(lab, winner, worker), ALL)


def _epoch(run: str, now: int) -> Any:
    from broker.protocol import keys
    from broker.protocol.parsing import texts
    from broker.protocol.script_call import ScriptCall

    def parse(reply: Any) -> str:
        parts = texts(reply)
        return dict(zip(parts[::2], parts[1::2], strict=True))["epoch"]

    return ScriptCall("stats", (keys.state(run),), (now,), parse)


@pytest.mark.parametrize("at", range(1, 12))
def test_a_trainer_that_is_overtaken_in_the_middle_of_its_recovery_is_fenced(
    lab: Lab, lost: tuple[Trainer, Worker, dict[int, list[str]], Path], at: int
):
    """Before its k-th call another trainer recovers from the same file, and trains a step."""
    trainer, worker, history, path = lost
    other = lab.trainer(reopen=True)
    trained: list[list[str]] = []

    def overtake() -> None:
        other.recover(path)
        trained.extend(train(other, worker))

    with kill(trainer, at=at, instead=overtake):
        try:
            trainer.recover(path)
        except Fenced:
            leader = other
        else:
            leader = trainer if trainer.epoch == lab.call(_epoch) else other
    loser = other if leader is trainer else trainer
    with pytest.raises(Fenced):
        loser.advance(allow_empty=True)
    kept = {2: trained[0]} if leader is other else {}
    judge_once(surviving(history, 2) | kept | train_to_the_end(lab, leader, worker), ALL)


ZOMBIE_CALLS: dict[str, Callable[[Trainer, Path], Any]] = {
    "enqueue": lambda zombie, path: zombie.enqueue(Task(id="zombie")),
    "cursor": lambda zombie, path: zombie.enqueue([], cursor=1),
    "next_batch": lambda zombie, path: zombie.next_batch(timeout=0),
    "filter": lambda zombie, path: zombie.next_batch(accept=lambda _: False, timeout=0),
    "discard": lambda zombie, path: zombie.discard(["t9"]),
    "cancel": lambda zombie, path: zombie.cancel(["t9"]),
    "retry": lambda zombie, path: zombie.retry(["t9"]),
    "advance": lambda zombie, path: zombie.advance(),
    "advance empty": lambda zombie, path: zombie.advance(allow_empty=True),
    "pause": lambda zombie, path: zombie.pause(),
    "drain": lambda zombie, path: zombie.drain(),
    "resume": lambda zombie, path: zombie.resume(),
    "repair": lambda zombie, path: zombie.audit(repair=True),
    "checkpoint": lambda zombie, path: zombie.checkpoint(path, weights=zombie.version),
    "full checkpoint": lambda zombie, path: zombie.checkpoint(path, full=True, weights=zombie.version),
}


@pytest.mark.parametrize("call", ZOMBIE_CALLS)
def test_every_call_of_a_zombie_trainer_is_fenced_and_changes_nothing(
    lab: Lab, lost: tuple[Trainer, Worker, dict[int, list[str]], Path], call: str
):
    zombie, worker, _, path = lost
    serve(worker)
    zombie.next_batch(timeout=1)  # so that its advance goes as far as the server
    successor = lab.trainer(reopen=True)
    successor.recover(path)
    train(successor, worker)
    successor.checkpoint(path)
    before, files = lab.dump(), {file: file.read_bytes() for file in path.parent.iterdir()}

    with pytest.raises(Fenced):
        ZOMBIE_CALLS[call](zombie, path)

    assert lab.dump() == before
    assert {file: file.read_bytes() for file in path.parent.iterdir()} == files


def test_late_copies_of_every_call_of_a_recovery_have_no_effect(
    lab: Lab, lost: tuple[Trainer, Worker, dict[int, list[str]], Path]
):
    """Each call is sent twice at once, and all of them again, in both orders, after the run has gone on."""
    old, worker, history, _path = lost
    token, names, sent = "0123456789abcdef", [f"t{i}" for i in range(20)], list[Any]()
    listed = frozenset(name for name in names if name not in {task for step in (0, 1) for task in history[step]})

    def twice(script_call: Any) -> Any:
        sent.append(script_call)
        first = lab.do(script_call)
        after = lab.dump()
        assert lab.do(script_call) == first
        assert lab.dump() == after
        return first

    order = lab.stat("order_seq")
    twice(recovery.begin(lab.run, token, Begin(2, old.epoch, order), None, now=lab.now))
    for number, at in enumerate(range(0, 20, 5), 1):
        call_id = trainer_call_id(token, number)
        twice(recovery.sweep(lab.run, call_id, names[at : at + 5], listed.__contains__, now=lab.now))
    twice(recovery.end(lab.run, trainer_call_id(token, 5), now=lab.now))
    after = lab.dump()
    for script_call in [*sent[:-1], *reversed(sent[:-1])]:
        try:
            lab.do(script_call)
        except BrokerError as error:
            assert error.code == "OLDCALL"
    assert lab.dump() == after
    successor = lab.trainer(reopen=True)
    serve(worker)
    history = surviving(history, 2) | dict(enumerate(train(successor, worker, 2), 2))
    before = lab.dump()
    for script_call in [*sent, *reversed(sent)]:
        with pytest.raises(Fenced):
            lab.do(script_call)
    assert lab.dump() == before
    judge_once(history | train_to_the_end(lab, successor, worker), ALL)


def test_a_commit_that_arrives_late_does_not_raise_the_floor_of_its_successor(
    lab: Lab, lost: tuple[Trainer, Worker, dict[int, list[str]], Path]
):
    trainer, worker, history, path = lost
    late = recovery.commit(
        lab.run, trainer_call_id(trainer._state.numbered.token, trainer._state.numbered.last + 1), 5, now=lab.now
    )
    other = lab.trainer(reopen=True)
    other.recover(path)
    floor = lab.stat("floor")
    with pytest.raises(Fenced):
        lab.do(late)
    assert lab.stat("floor") == floor
    judge_once(surviving(history, 2) | train_to_the_end(lab, other, worker), ALL)
