"""Attacks on the guarantees: other events before, during and after a recovery."""

import threading
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from broker import BrokerError, RunConfig, Task, Trainer
from broker.errors import CheckpointError, Fenced, Recovering, Undone
from broker.protocol import anyone, recovery, result_bytes
from broker.protocol import trainer as trainer_calls
from broker.protocol import worker as worker_calls
from broker.protocol.recovery import Begin
from broker.protocol.script_call import ScriptCall
from broker.protocol.trainer import trainer_call_id
from broker.recovery import recover as flows
from broker.recovery.recover import RecoveryReport
from tests.conformance.lab import Lab, names_of, tasks
from tests.recovery.interruptions import Killed, kill
from tests.recovery.story import judge_once, raw_step, serve, surviving, train, train_to_the_end
from tests.waiting import wait_until


def test_the_floor_follows_a_recovery_below_it(lab: Lab, tmp_path: Path):
    """R1. With allow_loss a run goes below its floor; what it trains from there on is covered by its checkpoints again."""
    trainer, worker = lab.trainer(keep_checkpoints=1, max_staleness=1), lab.worker()
    trainer.enqueue(tasks(20))
    history = dict(enumerate(train(trainer, worker, 6)))
    trainer.checkpoint(tmp_path / "six")
    trainer.recover(version=2, allow_loss=True)
    history = surviving(history, 2)
    history |= {2: train(trainer, worker, 1)[0]}
    trainer.checkpoint(tmp_path / "three")
    train(trainer, worker, 3)  # lost steps, 3 to 5: still below the old floor

    report = trainer.recover(tmp_path / "three")

    assert (report.version_to, report.missing) == (3, [])
    trained = train_to_the_end(lab, trainer, worker)
    again = {task for tasks_of in (surviving(history, 3) | trained).values() for task in tasks_of}
    assert len([task for tasks_of in trained.values() for task in tasks_of]) == len(set().union(*trained.values()))
    assert lab.stat("floor") <= 3
    assert again >= {f"t{i}" for i in range(6, 20)}


def test_an_unsealed_batch_is_not_consumed_by_a_recovery_forward(lab: Lab):
    """R2. Nobody trained on it: going on to a later version must not make it finished."""
    trainer, worker = lab.raw_trainer(consumer_batch_size=4, max_staleness=None), lab.worker()
    trainer.enqueue("a", "b", "c", "d", "e")
    serve(worker, 3)
    assert trainer.take(0, 4).size == 3
    with Trainer(lab.url, lab.run, clock=lab.clock) as other:
        other.recover(version=268)
        trained = train_to_the_end(lab, other, worker)
    judge_once(trained, "abcde")


def test_a_sealed_batch_that_was_not_trained_is_not_consumed_by_a_recovery_forward(lab: Lab):
    """R2, with a batch that is sealed."""
    trainer, worker = lab.trainer(consumer_batch_size=2, max_staleness=None), lab.worker()
    trainer.enqueue([Task(id=name) for name in "abcde"])
    serve(worker)
    trainer.next_batch(timeout=1)
    trainer.recover(version=5)
    judge_once(train_to_the_end(lab, trainer, worker), "abcde")


def test_tasks_that_a_rewound_server_consumed_otherwise_are_unfinished_as_the_checkpoint_says(lab: Lab, tmp_path: Path):
    """R3. The server forgot steps 1 to 3; a trainer that did not recover went on from there with other tasks."""
    trainer, worker = lab.trainer(consumer_batch_size=1, max_staleness=3), lab.worker()
    trainer.enqueue(tasks(8))
    history = dict(enumerate(train(trainer, worker, 1)))
    before = {name: lab.command("DUMP", name) for name in lab.command("KEYS", lab.key("*"))}
    history |= dict(enumerate(train(trainer, worker, 3), 1))
    trainer.checkpoint(tmp_path / "four")
    for name in lab.command("KEYS", lab.key("*")):
        lab.command("DEL", name)
    for name, value in before.items():
        lab.command("RESTORE", name, 0, value)
    careless = lab.trainer(reopen=True)
    careless.cancel([history[1][0]])  # so that its steps are others
    train(careless, worker, 4)

    careless.recover(tmp_path / "four")
    history = surviving(history, 4) | train_to_the_end(lab, careless, worker)

    judge_once(history, [f"t{i}" for i in range(8)])


@pytest.mark.parametrize("far", [400_000])
def test_the_scripts_are_bounded_however_far_a_recovery_goes(lab: Lab, far: int):
    """R4. From version 0 far on and back: no call does work for each step between."""
    trainer, worker = lab.trainer(), lab.worker()
    trainer.enqueue(tasks(3))
    trainer.recover(version=far)
    if lab.server.kind.is_real:
        lab.command("CONFIG", "RESETSTAT")
    trainer.recover(version=0, allow_loss=True)
    if lab.server.kind.is_real:
        stats = {
            parts[0]: int(parts[1].split(",usec=")[1].split(",")[0])
            for line in lab.command("INFO", "commandstats").decode().splitlines()
            if line.startswith("cmdstat_eval") and (parts := line.split(":"))
        }
        assert sum(stats.values()) < 50_000, f"microseconds in scripts: {stats}"
    judge_once(train_to_the_end(lab, trainer, worker), ["t0", "t1", "t2"])


def test_a_checkpoint_after_a_far_recovery_is_made_in_few_calls(lab: Lab, tmp_path: Path):
    """R4. What is freed is what is there, not a step at a time through steps that never were."""
    trainer = lab.trainer()
    trainer.recover(version=100_000)
    counted = _Counting(trainer)
    trainer.checkpoint(tmp_path / "file")
    assert counted.calls < 100


class _Counting:
    """Counts the calls of a trainer to its server, and gives up at ten thousand."""

    def __init__(self, trainer: Trainer) -> None:
        self.calls = 0
        io = trainer._transport.io
        self._execute = io.execute
        io.execute = self.execute  # type: ignore[method-assign]

    async def execute(self, script_calls: Any, *_: Any) -> Any:
        self.calls += 1
        assert self.calls < 10_000, "does not end"
        return await self._execute(script_calls)


def test_recovering_hundreds_of_times_from_one_checkpoint_works(lab: Lab, tmp_path: Path):
    """R5. A trainer in a crash loop comes back from the same file again and again."""
    trainer = lab.trainer(events_maxlen=0)
    trainer.recover(version=2681)
    trainer.checkpoint(tmp_path / "file")
    for _ in range(300):
        report = trainer.recover(tmp_path / "file")
    assert report.version_to == 2681


def test_a_batch_prefetched_before_a_recovery_is_not_delivered_after_it(lab: Lab):
    """R6. The trainer recovers in the same process, as after REWOUND; the batch it had read ahead is of the lost future."""
    trainer, worker = lab.trainer(max_staleness=2, max_concurrent_rollouts=2), lab.worker()
    trainer.enqueue(tasks(8))
    train(trainer, worker, 2)
    serve(worker)
    lost = {attempt for name in lab.states() for attempt in lab.attempts_of(name)}
    trainer.next_batch(prefetch=True, timeout=1)
    ahead = trainer._ahead
    assert ahead is not None
    ahead[1].result(5)

    trainer.recover(version=0)
    history: dict[int, list[str]] = {}
    for _ in range(4):
        serve(worker)
        batch = trainer.next_batch(timeout=1)
        for rollout in batch:
            for sample in rollout.samples:
                assert sample.version == 0 or sample.attempt_id not in lost, (
                    f"{sample.attempt_id} is of the lost future"
                )
        history[trainer.version] = names_of(batch)
        trainer.advance()
    history |= train_to_the_end(lab, trainer, worker)
    judge_once(history, [f"t{i}" for i in range(8)])


class _Held:
    """A transport whose answer to one script waits until the test lets it go."""

    def __init__(self, trainer: Trainer, script: str) -> None:
        io = trainer._transport.io
        self._execute, self._script = io.execute, script
        self.executed, self.may_answer = threading.Event(), threading.Event()
        io.execute = self.execute  # type: ignore[method-assign]

    async def execute(self, script_calls: Sequence[ScriptCall[Any]], *_: Any) -> list[Any]:
        outcomes = await self._execute(script_calls)
        if script_calls[0].script == self._script and not self.executed.is_set():
            self.executed.set()
            assert self.may_answer.wait(10)
        return outcomes


def test_a_call_of_another_thread_that_is_under_way_does_not_disturb_a_recovery(lab: Lab):
    """R7. Its answer belongs to the channel of the epoch before."""
    trainer, worker = lab.trainer(), lab.worker()
    trainer.enqueue(tasks(4))
    train(trainer, worker, 1)
    held = _Held(trainer, "enqueue")
    problems: list[BaseException] = []

    def enqueue() -> None:
        try:
            trainer.enqueue(Task(id="late"))
        except BrokerError as error:
            problems.append(error)

    thread = threading.Thread(target=enqueue)
    thread.start()
    assert held.executed.wait(10)
    reports: list[RecoveryReport] = []

    def recover() -> None:
        try:
            reports.append(trainer.recover(version=1))
        except BrokerError as error:
            problems.append(error)

    second = threading.Thread(target=recover)
    second.start()
    # The recovery has begun, or waits its turn: it must come through either way.
    wait_until(lambda: lab.stat("call") == 0 or not second.is_alive() or _waits(trainer), "the recovery is under way")
    held.may_answer.set()
    thread.join(10)
    second.join(10)
    assert problems == []
    assert [report.version_to for report in reports] == [1]
    assert trainer.enqueue(Task(id="after")).added == 1


def _waits(trainer: Trainer) -> bool:
    return trainer._state.numbered._turn.is_taken  # type: ignore[attr-defined]


def test_a_zombie_does_not_write_over_the_checkpoint_of_its_successor(lab: Lab, tmp_path: Path):
    """R8. It learns that it is fenced before the file is touched: beside the file are the successor's weights."""
    path = tmp_path / "broker.json"
    zombie, worker = lab.trainer(), lab.worker()
    zombie.enqueue(tasks(6))
    successor = lab.trainer(reopen=True)
    train(successor, worker, 2)
    successor.checkpoint(path)
    saved, files = path.read_bytes(), sorted(tmp_path.iterdir())
    train(successor, worker, 1)

    with pytest.raises(Fenced):
        zombie.checkpoint(path)

    assert path.read_bytes() == saved
    assert sorted(tmp_path.iterdir()) == files


def test_no_checkpoint_is_written_while_a_recovery_is_under_way(lab: Lab, tmp_path: Path):
    """R8. What a half-swept run says about its tasks is not true of any version."""
    path = tmp_path / "broker.json"
    trainer, worker = lab.trainer(), lab.worker()
    trainer.enqueue(tasks(6))
    train(trainer, worker, 1)
    trainer.checkpoint(path)
    saved, files = path.read_bytes(), sorted(tmp_path.iterdir())
    train(trainer, worker, 2)
    lab.call(recovery.begin, "a1b2c3d4e5f6", Begin(1), None)
    other = lab.trainer(reopen=True)

    with pytest.raises(Recovering):
        other.checkpoint(path)

    assert path.read_bytes() == saved
    assert sorted(tmp_path.iterdir()) == files
    other.recover(path)


def test_a_full_checkpoint_leaves_the_tasks_of_others_beside_it(lab: Lab, tmp_path: Path):
    """R9. `run` and `run.7`, `[a]` and `a` are different checkpoints."""
    trainer = lab.trainer()
    trainer.enqueue(tasks(3))
    names = ["run.7", "run", "a", "[a]", "r*"]
    for name in names:
        trainer.checkpoint(tmp_path / name, full=True)
    for name in names:
        assert trainer.recover(tmp_path / name, dry_run=True).missing == []
    for name in names:
        trainer.checkpoint(tmp_path / name, full=True)
    assert len(list(tmp_path.glob("*.tasks"))) == len(names)


def test_a_dry_run_leaves_the_trainer_as_it_is(lab: Lab, tmp_path: Path):
    """R10. Its cursor too; here the server is behind the checkpoint, whose cursor would be taken."""
    trainer = lab.trainer()
    trainer.enqueue(tasks(2), cursor=2)
    behind = {name: lab.command("DUMP", name) for name in lab.command("KEYS", lab.key("*"))}
    trainer.enqueue(tasks(2, "u"), cursor=4)
    trainer.checkpoint(tmp_path / "file")
    for name, value in behind.items():
        lab.command("RESTORE", name, 0, value, "REPLACE")
    other = lab.trainer(reopen=True)
    known = (other.version, other.epoch, other.cursor)

    said = other.recover(tmp_path / "file", dry_run=True)

    assert (said.cursor, other.cursor, (other.version, other.epoch, other.cursor)) == (4, 2, known)
    done = other.recover(tmp_path / "file")
    assert (done.cursor, other.cursor, done.missing) == (4, 4, said.missing)


def test_a_cancellation_that_was_acknowledged_during_a_recovery_holds(lab: Lab):
    """R11. Refused, or done: not done and then undone by the sweep."""
    trainer = lab.raw_trainer(max_staleness=1)
    worker = lab.raw_worker()
    trainer.enqueue("a", "b", "c")
    worker.work(1)
    raw_step(trainer, 0)
    worker.take_one()
    begun = lab.call(recovery.begin, "a1b2c3d4e5f6", Begin(1), None)
    assert begun.version == 1
    try:
        words = lab.call(trainer_calls.cancel, trainer_calls.operator_call_id("request-1"), ["b"])
    except Recovering:
        words = ["refused"]
    call_id = iter(range(1, 10))
    names = ["a", "b", "c"]
    lab.call(recovery.sweep, trainer_call_id("a1b2c3d4e5f6", next(call_id)), names, lambda _: False)
    lab.call(recovery.end, trainer_call_id("a1b2c3d4e5f6", next(call_id)))
    assert (words[0], lab.row("b").state) in {("cancelled", "rejected"), ("refused", "running")}


def test_a_late_duplicate_of_a_submit_does_not_lend_bytes_to_a_recovery(lab: Lab):
    """R12. The bytes of a lost step were freed; a copy of the submit sets them again for a while, and the sweep believes it."""
    trainer, worker = lab.raw_trainer(max_staleness=3), lab.raw_worker()
    trainer.enqueue("a", "b", "c", "d", "e")
    attempt = worker.take_one()
    item = worker_calls.Submission(attempt, "accept", body=b"x" * 100_000)
    lab.call(result_bytes.submit_call, [item], result_ttl_ms=60_000)
    for step in range(4):
        raw_step(trainer, step)
        worker.work(1)
    assert attempt not in lab.result_keys()
    token = "a1b2c3d4e5f6"
    lab.call(recovery.begin, token, Begin(0), None)

    (answer,) = lab.call(result_bytes.submit_call, [item], result_ttl_ms=60_000)  # the late copy

    assert answer.word == "accepted"
    lab.call(recovery.sweep, trainer_call_id(token, 1), list("abcde"), lambda _: False)
    lab.call(recovery.end, trainer_call_id(token, 2))
    state = lab.row("a").state
    if state == "ready":
        assert lab.command("PTTL", lab.key(f"result:{attempt}")) == -1, "it is ready, and its bytes go away"
    else:
        assert state == "pending"
        assert attempt not in lab.result_keys()


def test_what_was_undone_is_known_to_the_checkpoints_too(lab: Lab, tmp_path: Path):
    """R13. A server that lost everything is told by the checkpoint which futures were undone."""
    trainer, worker = lab.trainer(), lab.worker()
    trainer.enqueue(tasks(12))
    train(trainer, worker, 3)
    trainer.checkpoint(tmp_path / "three")
    train(trainer, worker, 1)
    trainer.checkpoint(tmp_path / "undone")
    trainer.recover(tmp_path / "three")
    train(trainer, worker, 2)
    trainer.checkpoint(tmp_path / "good", full=True)
    for name in lab.command("KEYS", lab.key("*")):
        lab.command("DEL", name)
    trainer.recover(tmp_path / "good")

    with pytest.raises(Undone):
        trainer.recover(tmp_path / "undone")


def test_versions_beyond_exact_numbers_are_refused(lab: Lab):
    """R14. B * (S + version + 1) must stay exact, or capacity is wrong."""
    config = RunConfig(consumer_batch_size=1_000_000, max_staleness=2, max_concurrent_rollouts=1_000_000_000)
    trainer = lab.trainer(**config.model_dump(exclude={"name"}))
    before = lab.dump()
    for version in (2**53 - 1, 10**15):
        try:
            report = trainer.recover(version=version)
        except (BrokerError, ValueError):
            assert lab.dump() == before
            continue
        assert report.capacity[1] == 3_000_000


def test_a_task_retried_after_the_checkpoint_does_not_vanish(lab: Lab, tmp_path: Path):
    """R15. It had ended, for a reason that can be looked up, when the checkpoint was made; or it is tried again."""
    trainer, worker = lab.trainer(max_attempts=1, retry_backoff_ms=0), lab.worker()
    trainer.enqueue(tasks(3))
    (attempt,) = worker.claim(1)
    worker.fail(attempt, "boom")
    assert lab.row("t0").state == "dead"
    trainer.checkpoint(tmp_path / "file")
    assert trainer.retry(["t0"]) == {"t0": "retried"}

    trainer.recover(tmp_path / "file")

    assert lab.states().get("t0") in {"dead", "pending"}


def test_the_newest_version_of_a_rollout_is_of_the_surviving_history(lab: Lab, tmp_path: Path):
    """R16. A slot that a later policy held for a while, and gave back, leaves nothing of it."""
    trainer, worker = lab.trainer(max_staleness=3, max_concurrent_rollouts=4, consumer_batch_size=1), lab.worker()
    trainer.enqueue([Task(id="g", samples=2), *tasks(5)])
    first, second = worker.claim(2)
    worker.submit(first, b"x")
    worker.release(second)
    trainer.checkpoint(tmp_path / "file")
    with Trainer(lab.url, lab.run, clock=lab.clock) as other:
        held = worker.claim(1)
        serve(lab.worker(), 1)
        other.next_batch(timeout=1)
        other.advance()
        worker.release(held)
        (late,) = worker.claim(1)
        assert (late.task, late.version) == ("g", 1)
        worker.release(late)
        other.recover(tmp_path / "file")
    assert lab.row("g").newest <= 0


def test_a_path_that_cannot_be_looked_at_is_a_checkpoint_error(lab: Lab):
    """R17. Missing is one thing, not to be looked at is another."""
    trainer = lab.trainer()
    before = lab.dump()
    for path in ("x" * 5_000, "a\0b"):
        with pytest.raises(CheckpointError):
            trainer.recover(path, missing_ok=True)
    assert lab.dump() == before


@pytest.mark.parametrize("loses_all", [False, True])
def test_rows_after_the_checkpoint_are_trained_once_when_the_loader_comes_by_late(
    lab: Lab, tmp_path: Path, loses_all: bool
):
    """R28. Rows that were enqueued after the checkpoint, trained on after the recovery, and freed before the loader
    has come to them again.
    """
    trainer, worker = lab.trainer(consumer_batch_size=1, max_staleness=0, keep_checkpoints=1), lab.worker()
    trainer.enqueue(tasks(2), cursor=2)
    trainer.checkpoint(tmp_path / "zero")
    trainer.enqueue([Task(id=f"t{i}") for i in range(2, 6)], cursor=6)
    trainer.recover(tmp_path / "zero")
    history = dict(enumerate(train(trainer, worker, 4)))
    trainer.checkpoint(tmp_path / "four", full=True)
    if loses_all:
        for name in lab.command("KEYS", lab.key("*")):
            lab.command("DEL", name)
        trainer.recover(tmp_path / "four")
    cursor = trainer.cursor
    trainer.enqueue([Task(id=f"t{i}") for i in range(cursor, 8)], cursor=8)
    judge_once(history | train_to_the_end(lab, trainer, worker), [f"t{i}" for i in range(8)])


@pytest.mark.parametrize("ended", ["discard", "cancel"])
def test_what_ended_in_a_lost_step_and_was_freed_is_trained_when_the_loader_brings_it_again(
    lab: Lab, tmp_path: Path, ended: str
):
    """R30. Rows after the checkpoint that were refused in lost steps, more of them than max_finished keeps."""
    trainer, worker = lab.trainer(max_staleness=3, max_concurrent_rollouts=4, max_finished=1), lab.worker()
    trainer.enqueue(tasks(2), cursor=2)
    history = dict(enumerate(train(trainer, worker, 1)))
    trainer.checkpoint(tmp_path / "one")
    trainer.enqueue([Task(id=f"t{i}") for i in range(2, 8)], cursor=8)
    serve(worker)
    refused = ["t2", "t3", "t4"]
    if ended == "discard":
        words = trainer.discard(refused)
        assert list(words.values()).count("discarded") > 1
    else:
        trainer.cancel(refused)
    train(trainer, worker, 2)

    trainer.recover(tmp_path / "one")
    trainer.enqueue([Task(id=f"t{i}") for i in range(trainer.cursor, 10)], cursor=10)

    judge_once(surviving(history, 1) | train_to_the_end(lab, trainer, worker), [f"t{i}" for i in range(10)])


def test_tasks_that_a_recovery_with_loss_calls_for_may_be_enqueued_again(lab: Lab, tmp_path: Path):
    """R30. Below the floor, without a list: what was freed there is the caller's to bring, and is taken."""
    trainer, worker = lab.trainer(keep_checkpoints=1, max_staleness=1), lab.worker()
    trainer.enqueue(tasks(8))
    train(trainer, worker, 4)
    trainer.checkpoint(tmp_path / "four")
    trainer.recover(version=0, allow_loss=True)
    trainer.enqueue(tasks(8))
    judge_once(train_to_the_end(lab, trainer, worker), [f"t{i}" for i in range(8)])


@pytest.mark.parametrize("lost", ["everything", "the last writes"])
@pytest.mark.parametrize("full", [False, True])
def test_an_older_checkpoint_after_a_loss_brings_its_own_cursor(lab: Lab, tmp_path: Path, lost: str, full: bool):
    """R31. The server came back from the newer checkpoint, and so has nothing of what was finished between the two: its
    own cursor would skip that.
    """
    trainer, worker = lab.trainer(max_staleness=1), lab.worker()
    trainer.enqueue(tasks(3), cursor=3)
    history = dict(enumerate(train(trainer, worker, 1)))
    copy = {name: lab.command("DUMP", name) for name in lab.command("KEYS", lab.key("*"))}
    trainer.checkpoint(tmp_path / "older", full=full)
    trainer.enqueue([Task(id=f"t{i}") for i in range(3, 9)], cursor=9)
    train(trainer, worker, 4)
    trainer.checkpoint(tmp_path / "newer", full=full)
    for name in lab.command("KEYS", lab.key("*")):
        lab.command("DEL", name)
    if lost == "the last writes":
        for name, value in copy.items():
            lab.command("RESTORE", name, 0, value)
    report = trainer.recover(tmp_path / "newer")
    trainer.enqueue(Task(id=name) for name in report.missing)

    report = trainer.recover(tmp_path / "older")  # the newer weights turned out to be broken

    trainer.enqueue(Task(id=name) for name in report.missing)
    trainer.enqueue([Task(id=f"t{i}") for i in range(trainer.cursor, 10)], cursor=10)
    judge_once(surviving(history, 1) | train_to_the_end(lab, trainer, worker), [f"t{i}" for i in range(10)])


def test_a_new_epoch_is_above_that_of_the_file(lab: Lab, tmp_path: Path):
    """The numbers of a server that lost everything begin again; what its recovery undid must be told by them, too."""
    for _ in range(6):
        lab.trainer()
    trainer, worker = lab.trainer(), lab.worker()
    trainer.enqueue(tasks(9))
    train(trainer, worker, 2)
    trainer.checkpoint(tmp_path / "two")
    train(trainer, worker, 2)
    trainer.checkpoint(tmp_path / "four")
    for name in lab.command("KEYS", lab.key("*")):
        lab.command("DEL", name)
    reborn = lab.trainer()
    assert reborn.epoch.startswith("1.")

    report = reborn.recover(tmp_path / "two")

    assert int(report.epoch.partition(".")[0]) > int(trainer.epoch.partition(".")[0])
    with pytest.raises(Undone):
        reborn.recover(tmp_path / "four")


@pytest.mark.parametrize("at", [3, 5, 20])
def test_recoveries_forward_after_some_that_were_interrupted_take_nothing_for_consumed(
    lab: Lab, at: int, monkeypatch: pytest.MonkeyPatch
):
    """Steps 1 to 4 are lost from the moment that the first recovery began, whatever version the others go to."""
    monkeypatch.setattr(flows, "SWEEP_TASKS", 2)
    trainer, worker = lab.trainer(max_staleness=9, max_concurrent_rollouts=9), lab.worker()
    trainer.enqueue(tasks(10))
    history = dict(enumerate(train(trainer, worker, 5)))
    for version in (1, 3):
        with suppress(Killed), kill(trainer, at=at):
            trainer.recover(version=version)
    other = lab.trainer(reopen=True)
    other.recover(version=4)
    judge_once(surviving(history, 1) | train_to_the_end(lab, other, worker), [f"t{i}" for i in range(10)])


def test_a_loader_without_a_cursor_may_bring_all_rows_again(lab: Lab, tmp_path: Path):
    """R29. Also those that were trained on long ago, whose records are freed."""
    trainer, worker = lab.trainer(max_staleness=1, keep_checkpoints=1), lab.worker()
    rows = tasks(20)
    trainer.enqueue(rows)
    history = dict(enumerate(train(trainer, worker, 8)))
    trainer.checkpoint(tmp_path / "eight")
    train(trainer, worker, 3)
    assert lab.states().get(history[2][0]) is None, "freed"

    successor = lab.trainer(reopen=True)
    successor.recover(tmp_path / "eight")
    answer = successor.enqueue(rows)

    assert (answer.added, len(answer.existing)) == (0, 20)
    judge_once(surviving(history, 8) | train_to_the_end(lab, successor, worker), [row.id for row in rows])


def test_memory_stays_bounded_after_a_recovery_below_the_floor(lab: Lab, tmp_path: Path):
    """What is trained from there on is freed like everything else."""
    trainer, worker = lab.trainer(keep_checkpoints=1, max_staleness=0), lab.worker()
    trainer.enqueue(tasks(40))
    train(trainer, worker, 10)
    trainer.checkpoint(tmp_path / "ten")
    trainer.recover(version=2, allow_loss=True)
    train(trainer, worker, 12)
    trainer.checkpoint(tmp_path / "fourteen")
    train(trainer, worker, 2)

    consumed = [name for name, state in lab.states().items() if state == "consumed"]

    assert len(consumed) <= 4
    assert len(lab.result_keys()) <= 4
    assert [name for name in lab.dump() if name.startswith("batch:")] == [f"batch:{step}" for step in (14, 15)]


def test_bytes_that_were_being_freed_when_the_run_went_back_leave_none_behind(lab: Lab):
    """A batch half-freed in the lost future says nothing of the batch that takes its place."""
    trainer, worker = lab.raw_trainer(consumer_batch_size=4, max_staleness=0), lab.raw_worker()
    trainer.enqueue(*(f"t{i}" for i in range(60)))
    for step in range(6):
        worker.work(4)
        trainer.advance(step, trainer.take(step, 4).digest)
    for _ in range(4):
        lab.call(anyone.trim, 100)
    lab.call(anyone.trim, 3)
    assert (lab.stat("bytes_from"), lab.stat("bytes_at")) == (4, 3)
    with Trainer(lab.url, lab.run, clock=lab.clock) as other:
        other.recover(version=2)
        one = lab.worker()
        for _ in range(5):
            train(other, one)
    assert len(lab.result_keys()) <= 2 * 4
