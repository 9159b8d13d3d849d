"""`broker verify`: a good run passes, planted breaches are named, and the report says what the log does not show."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from broker import Rollout, Trainer
from broker.inspection import events, verification
from broker.inspection.verification import Verification, verify
from broker.protocol import recovery
from broker.protocol.recovery import Begin
from broker.protocol.script_call import ScriptCall
from tests.conformance.lab import Lab, names_of, run_one, tasks

Transitions = list[tuple[str, str]]
Command = Sequence[str | bytes | int]


@pytest.fixture
def trainer(lab: Lab) -> Trainer:
    """Batches of two, at most four tasks at once, results at most one version old."""
    return lab.trainer(
        consumer_batch_size=2, max_staleness=1, staleness_limit=1, max_concurrent_rollouts=4, max_attempts=2
    )


def train(trainer: Trainer) -> list[str]:
    """One step; its tasks."""
    batch = names_of(trainer.next_batch(timeout=2))
    trainer.advance()
    return batch


def doctor(lab: Lab, change: Callable[[Transitions], None]) -> None:
    """Writes another event log: each entry keeps its id, the last one takes what is added."""
    lab.checks_state = lab.keeps_config = False
    entries = events.read(lab.command, lab.run)
    changed = [transition for event in entries for transition in event.transitions]
    change(changed)
    lab.command("DEL", lab.key("events"))
    for number, (kind, words) in enumerate(changed):
        lab.command("XADD", lab.key("events"), f"{entries[0].at_ms}-{number + 1}", kind, words)


def broken(found: Verification) -> set[tuple[str, str]]:
    """The rules that were broken, with their guarantees."""
    return {(breach.guarantee, breach.rule) for breach in found.breaches}


# -- a run that went well ------------------------------------------------------------------------------------------------


def test_a_run_with_faults_filters_and_a_recovery_passes(lab: Lab, trainer: Trainer, tmp_path: Path):
    trainer.enqueue([*tasks(8), *tasks(4, "g", samples=3, min_samples=2)], cursor="all")
    worker = lab.worker(name="w1", lease_s=5.0)
    run_one(worker)
    run_one(worker)
    train(trainer)
    trainer.checkpoint(tmp_path / "broker.json")
    dead = lab.worker(name="dead", lease_s=5.0)
    assert dead.claim(2)
    lab.pass_ms(6_000)  # its lease passes
    (failed,) = worker.claim(1)
    worker.fail(failed, "boom")
    (refused,) = worker.claim(1)
    worker.reject(refused, "not to be trained on")
    for attempt in worker.claim(4):
        worker.submit(attempt, b"x")
    refused: list[str] = []

    def accept(rollout: Rollout) -> bool:
        """All but the first."""
        refused.append(rollout.task)
        return len(refused) > 1

    trainer.next_batch(2, timeout=2, accept=accept)
    trainer.cancel(["t7"])
    trainer.advance()
    report = trainer.recover(tmp_path / "broker.json")
    assert report.version_to == 1
    while trainer.stats().consumed < 8:
        lab.pass_ms(2_000)
        for attempt in worker.claim(4):
            worker.submit(attempt, b"x")
        if trainer.stats().ready >= 2:
            train(trainer)
    found = verify(lab.transport, lab.run)
    assert found.breaches == []
    assert (found.is_whole, found.tasks_compared) == (True, 12)
    assert found.transitions == len(lab.transitions())
    assert (found.tally.enqueued, found.tally.recoveries, found.tally.consumed) == (12, 1, trainer.stats().consumed)
    assert found.tally.ended.keys() >= {"expired", "failed", "rejected"}
    assert lab.row(refused[0]).state != "rejected", "the recovery put it back, of which there is no event"
    assert any("dead and rejected tasks" in sentence for sentence in found.unseen)


def test_nothing_is_changed_and_it_says_how_far_it_is(lab: Lab, trainer: Trainer):
    trainer.enqueue(tasks(4))
    before = lab.dump()
    told: list[int] = []
    found = verify(lab.transport, lab.run, progress=told.append)
    assert (found.ok, told[-1]) == (True, found.transitions)
    assert lab.dump() == before


# -- planted breaches ----------------------------------------------------------------------------------------------------


def after(kind: str, *added: tuple[str, str], nth: int = 0) -> Callable[[Transitions], None]:
    """Adds transitions after the nth one of a kind; `FIRST` in their words is that one's first word."""

    def change(log: Transitions) -> None:
        at = [i for i, (found, _) in enumerate(log) if found == kind][nth]
        first, epoch = log[at][1].split()[0], log[0][1]
        log[at + 1 : at + 1] = [(name, words.replace("FIRST", first).replace("EPOCH", epoch)) for name, words in added]

    return change


def without(kind: str) -> Callable[[Transitions], None]:
    """Takes the first transition of a kind out."""

    def change(log: Transitions) -> None:
        del log[next(i for i, (found, _) in enumerate(log) if found == kind)]

    return change


PLANTED: dict[str, tuple[Callable[[Transitions], None], tuple[str, str], str]] = {
    "a slot accepts two results": (after("done", ("done", "FIRST 0")), ("G2", "duplicate"), "second accepted result"),
    "a result without a claim": (without("claim"), ("G3", "fencing"), "accepted while nobody held the slot"),
    "a slot is held by two": (after("claim", ("claim", "t0#0.2.rx 0 EPOCH w~1.x")), ("G3", "claim"), "handed out while"),
    "a task is trained twice": (
        after("advance", ("batch", "t0 1 0"), ("batch", "t1 1 0"), ("seal", "1 2 dd"), ("advance", "2 EPOCH")),
        ("G1", "duplicate"),
        "task t0 of step 0 is in the batch of step 1 too",
    ),
    "a task is trained without a result": (
        after("seal", ("batch", "t5 1 0"), ("seal", "1 1 dd")),
        ("G3", "fencing"),
        "task t5 joined the batch of step 1 without an accepted result",
    ),
    "a task is batched that never was ready": (without("ready"), ("G1", "state"), "while it was running"),
    "tasks start beyond capacity": (
        after("ready", *((("start", f"t{i} {i}")) for i in range(4, 8)), nth=-1),
        ("G4", "admission"),
        "task t6 was started at capacity 0",
    ),
    "a version is skipped": (without("advance"), ("counters", "counters"), "version is 1 in the server, the log comes to 0"),
    "a task is lost from the log": (without("enqueue"), ("log", "log"), "without having been enqueued"),
    "a replaced trainer advances": (
        after("seal", ("open", "2.bb"), ("advance", "1 EPOCH")),
        ("G1", "advance"),
        "which 2.bb had replaced",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", PLANTED)
def test_a_breach_in_the_log_is_found_and_named(lab: Lab, trainer: Trainer, name: str):
    change, expected, text = PLANTED[name]
    trainer.enqueue(tasks(8))
    hands = lab.raw_worker()
    hands.work(1)
    hands.work(1)
    train(trainer)
    hands.work(2)
    doctor(lab, lambda _: None)
    assert verify(lab.transport, lab.run).ok
    doctor(lab, change)
    found = verify(lab.transport, lab.run)
    named = [breach.text for breach in found.breaches if (breach.guarantee, breach.rule) == expected]
    assert any(text in one for one in named), found.breaches
    assert not found.ok


def test_a_rollout_that_is_too_stale_is_found(lab: Lab, trainer: Trainer):
    trainer.enqueue(tasks(8))
    hands = lab.raw_worker()
    for _ in range(3):
        hands.work(2)
        train(trainer)
    doctor(
        lab,
        lambda log: log.__setitem__(
            slice(None), [(k, w.replace(" 2 ", " 0 ", 1) if k == "claim" else w) for k, w in log]
        ),
    )
    found = verify(lab.transport, lab.run)
    assert broken(found) == {("G5", "staleness")}
    assert "2 versions old when it joined the batch of step 2" in found.breaches[-1].text
    at_ms = events.place(found.breaches[-1].event)[0]
    assert found.from_ms <= at_ms <= found.to_ms


STATES: dict[str, tuple[Callable[[Lab], Any], str]] = {
    "accepted": (lambda lab: lab.command("HINCRBY", lab.key("state"), "accepted", 5), "accepted is"),
    "running": (lambda lab: lab.command("HINCRBY", lab.key("state"), "running", -1), "running is"),
    "version": (lambda lab: lab.command("HINCRBY", lab.key("state"), "version", 1), "version is"),
    "a total": (lambda lab: lab.command("HINCRBY", lab.key("state"), "total_results", 1), "total_results is"),
    "a task out of nowhere": (
        lambda lab: lab.command("HSET", lab.key("tasks"), "new", lab.command("HGET", lab.key("tasks"), "t7")),
        "tasks is 9 in the server, the log comes to 6 to 8",
    ),
    "a task that is gone": (lambda lab: lab.command("HDEL", lab.key("tasks"), "t7"), "the server has no record of it"),
    "consumed without acceptance": (
        lambda lab: lab.command("HSET", lab.key("tasks"), "t7", lab.command("HGET", lab.key("tasks"), "t0")),
        "task t7 is pending by the log, the server holds it as batched",
    ),
    "a slot that is done without a result": (
        lambda lab: lab.command(
            "HSET", lab.key("tasks"), "t4", lab.command("HGET", lab.key("tasks"), "t4").replace(b",H;", b",D;")
        ),
        "slots of t4 accepted by the log: none, in the server: [0]",
    ),
}


@pytest.mark.parametrize("name", STATES)
def test_state_that_does_not_follow_from_the_log_is_found(lab: Lab, trainer: Trainer, name: str):
    change, expected = STATES[name]
    trainer.enqueue(tasks(8))
    hands = lab.raw_worker()
    hands.work(2)
    train(trainer)
    hands.work(2)
    hands.take_one()
    lab.checks_state = False
    assert verify(lab.transport, lab.run).ok
    change(lab)
    found = verify(lab.transport, lab.run)
    assert {breach.rule for breach in found.breaches} <= {"counters", "states"}
    assert any(expected in breach.text for breach in found.breaches), found.breaches


# -- what cannot be seen -------------------------------------------------------------------------------------------------


def test_a_log_whose_beginning_was_trimmed_is_said(lab: Lab, trainer: Trainer):
    trainer.enqueue(tasks(12))
    hands = lab.raw_worker()
    for _ in range(4):
        hands.work(2)
        train(trainer)
    assert verify(lab.transport, lab.run).unseen == []
    entries = events.read(lab.command, lab.run)
    for kept in range(len(entries)):
        lab.command("XTRIM", lab.key("events"), "MAXLEN", len(entries) - 1 - kept)
        found = verify(lab.transport, lab.run)
        assert found.breaches == []
        assert not found.is_whole
        assert ("begin with the run" if found.transitions else "the log is empty") in found.unseen[0]
    lab.keeps_config = False


def test_a_breach_in_what_is_kept_of_a_log_is_found(lab: Lab, trainer: Trainer):
    trainer.enqueue(tasks(12))
    hands = lab.raw_worker()
    for _ in range(3):
        hands.work(2)
        train(trainer)
    doctor(lab, lambda log: log.__delitem__(slice(0, 20)))
    assert verify(lab.transport, lab.run).ok
    doctor(lab, after("done", ("done", "FIRST 0"), nth=-1))
    assert broken(verify(lab.transport, lab.run)) == {("G2", "duplicate")}
    lab.command("HINCRBY", lab.key("state"), "accepted", 1)
    drifted = verify(lab.transport, lab.run)
    assert "accepted is stored as 7, the sets in the server come to 6" in [breach.text for breach in drifted.breaches]


class Meddler:
    """The lab's server, which does something else at each call."""

    def __init__(self, lab: Lab, meddle: Callable[[str], Any]) -> None:
        self._lab, self._meddle = lab, meddle

    def execute(self, script_calls: Sequence[ScriptCall[Any]], *_: Any) -> list[Any]:
        return self._lab.transport.execute(script_calls)

    def command(self, *args: str | bytes | int) -> Any:
        reply = self._lab.transport.command(*args)
        self._meddle(str(args[0]))
        return reply

    def pipeline(self, commands: Sequence[Command]) -> list[Any]:
        replies = self._lab.transport.pipeline(commands[:-1])
        self._meddle("PIPELINE")
        return [*replies, *self._lab.transport.pipeline(commands[-1:])]


def test_what_happens_in_the_middle_of_a_look_is_no_breach(lab: Lab, trainer: Trainer):
    trainer.enqueue(tasks(12))
    hands = lab.raw_worker()
    hands.work(2)
    train(trainer)
    left = [3]

    def meddle(command: str) -> None:
        if command == "PIPELINE" and left[0]:
            left[0] -= 1
            hands.work(1)

    found = verify(Meddler(lab, meddle), lab.run)
    assert (found.breaches, found.unseen, left) == ([], [], [0])
    assert found.tally.accepted == 5


def test_a_run_without_a_quiet_moment_is_said(lab: Lab, trainer: Trainer, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(verification, "_MOST_LOOKS", 3)
    trainer.enqueue(tasks(20))
    hands = lab.raw_worker()

    def meddle(command: str) -> None:
        if command == "PIPELINE":
            hands.release(hands.take_one())

    found = verify(Meddler(lab, meddle), lab.run)
    assert (found.ok, found.tasks_compared) == (True, 0)
    assert ["too busy" in sentence for sentence in found.unseen] == [True, True]


def test_events_that_are_trimmed_while_they_are_read_are_said(
    lab: Lab, trainer: Trainer, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(events.Follower.pages, "__defaults__", ("+", 5))
    trainer.enqueue(tasks(12))
    hands = lab.raw_worker()
    for _ in range(3):
        hands.work(2)
        train(trainer)
    trims = [1]

    def meddle(command: str) -> None:
        if command == "XRANGE" and trims:
            trims.pop()
            lab.command("XTRIM", lab.key("events"), "MAXLEN", 6)

    found = verify(Meddler(lab, meddle), lab.run)
    assert (found.ok, found.is_whole) == (True, False)
    assert any("before they could be read" in sentence for sentence in found.unseen)
    lab.keeps_config = False


def test_breaches_that_an_earlier_config_may_have_allowed_are_in_doubt(lab: Lab, trainer: Trainer):
    lab.keeps_config = False
    trainer.enqueue(tasks(8))
    hands = lab.raw_worker()
    hands.work(2)
    assert len(hands.claim(4).granted) == 2
    lab.trainer(update=True, consumer_batch_size=2, max_staleness=1, max_concurrent_rollouts=1)
    found = verify(lab.transport, lab.run)
    assert (found.breaches, {doubt.guarantee for doubt in found.doubts}) == ([], {"G4"})
    assert any("--same-config" in sentence for sentence in found.unseen)
    strict = verify(lab.transport, lab.run, keeps_config=True)
    assert broken(strict) == {("G4", "admission")}


def test_a_config_that_is_changed_meanwhile_is_read_again(lab: Lab, trainer: Trainer):
    trainer.enqueue(tasks(8))
    hands = lab.raw_worker()
    changes = [lambda: lab.trainer(update=True, consumer_batch_size=2, max_staleness=3, max_concurrent_rollouts=8)]

    def meddle(command: str) -> None:
        if command == "PIPELINE" and changes:
            changes.pop()()
            assert len(hands.claim(8).granted) == 8

    found = verify(Meddler(lab, meddle), lab.run)
    assert (found.breaches, found.unseen, changes) == ([], [], [])
    lab.keeps_config = False


def test_a_config_that_is_changed_at_every_look_is_said(lab: Lab, trainer: Trainer):
    trainer.enqueue(tasks(8))
    bounds = iter(range(5, 99))

    def meddle(command: str) -> None:
        if command == "XRANGE":
            lab.trainer(update=True, consumer_batch_size=2, max_staleness=3, max_concurrent_rollouts=next(bounds))

    assert any("again and again" in sentence for sentence in verify(Meddler(lab, meddle), lab.run).unseen)
    lab.keeps_config = False


def test_a_recovery_that_is_under_way_is_said(lab: Lab, trainer: Trainer):
    trainer.enqueue(tasks(4))
    hands = lab.raw_worker()
    hands.work(2)
    train(trainer)
    lab.do(recovery.begin(lab.run, "0123456789", Begin(0), None, now=lab.now))
    found = verify(lab.transport, lab.run)
    assert (found.ok, found.tasks_compared) == (True, 0)
    assert any("a recovery is under way" in sentence for sentence in found.unseen)
    lab.checks_state = False


def test_a_reader_of_events_ends_though_new_ones_come_all_the_time(lab: Lab, trainer: Trainer):
    trainer.enqueue(tasks(4))
    hands = lab.raw_worker()

    def send(*args: str | bytes | int) -> Any:
        reply = lab.command(*args)
        hands.release(hands.take_one())
        return reply

    follower = events.Follower(send, lab.run)
    read = [len(page.events) for _ in range(3) for page in follower.pages()]
    assert len(read) == 3
