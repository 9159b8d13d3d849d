"""The server lost everything, or its last writes: the trainer is told, and its checkpoint restores what it covers."""

from __future__ import annotations

import random
import shutil
from collections.abc import Generator
from pathlib import Path

import pytest

from broker import Policy, Task, Trainer, Worker
from broker.errors import Fenced, NoRun, Rewound
from tests.conformance.lab import Lab, tasks
from tests.recovery.interruptions import Killed, kill
from tests.recovery.story import judge_once, serve, surviving, train, train_to_the_end
from tests.servers import ServerKind, ServerUnderTest, real_kinds

ALL = [f"t{i}" for i in range(24)]
APPEND_ONLY = {"appendonly": "yes", "appendfsync": "always"}
SNAPSHOTS = {"appendonly": "no", "save": ""}
_STORES = [(kind, APPEND_ONLY) for kind in real_kinds()] + [(kind, SNAPSHOTS) for kind in real_kinds()[:1]]


@pytest.fixture(params=_STORES, ids=lambda store: f"{store[0]}-{'aof' if store[1] is APPEND_ONLY else 'rdb'}")
def durable(request: pytest.FixtureRequest) -> Generator[ServerUnderTest]:
    """A private server that keeps its data in a directory, as an append-only file or a snapshot."""
    kind: ServerKind
    settings: dict[str, str]
    kind, settings = request.param
    with ServerUnderTest(kind, durable=True, settings=settings) as server:
        yield server


@pytest.fixture
def own(durable: ServerUnderTest, run: str) -> Generator[Lab]:
    """A lab on that server."""
    with Lab(durable, run) as made:
        yield made


class Past:
    """Copies of a server's data at points of its history."""

    def __init__(self, server: ServerUnderTest, folder: Path) -> None:
        self._server, self._folder = server, folder
        self.copies = 0

    def keep(self) -> None:
        """Copies the data as they are now. Nothing is under way: every write has been answered, and so is in the file."""
        if self._server.settings is SNAPSHOTS:
            self._server.command("SAVE")
        shutil.copytree(self._server._data, self._folder / str(self.copies))
        self.copies += 1

    def bring_back(self, which: int) -> None:
        """Kills the server, and starts it with the data of then."""
        self._server.kill()
        shutil.rmtree(self._server._data)
        shutil.copytree(self._folder / str(which), self._server._data)
        self._server.start()


def _seven_steps(lab: Lab, path: Path, past: Past) -> tuple[Trainer, Worker, dict[int, list[str]]]:
    """Seven steps with checkpoints of versions 2 and 5; the data are copied between any two of their parts."""
    trainer = lab.trainer(consumer_batch_size=2, max_staleness=2, max_concurrent_rollouts=8)
    worker, history = lab.worker(), dict[int, list[str]]()
    trainer.enqueue([Task(id=name, samples=2 if name.endswith("3") else 1) for name in ALL], cursor=24)
    for step in range(7):
        past.keep()
        serve(worker, 3)
        serve(worker)
        history[step] = [rollout.task for rollout in trainer.next_batch(timeout=1)]
        past.keep()
        trainer.advance(f"blob {step + 1}".encode())
        if step + 1 in {2, 5}:
            past.keep()
            trainer.checkpoint(path, full=True)
    return trainer, worker, history


@pytest.mark.parametrize("same_trainer", [True, False], ids=["the running trainer", "a new one"])
def test_a_server_that_went_back_is_noticed_and_its_checkpoint_restores_it(
    own: Lab, durable: ServerUnderTest, tmp_path: Path, same_trainer: bool
):
    """From copies of the append-only file at every distance: before and after the checkpoints, in the middle of batches."""
    past, path = Past(durable, tmp_path / "copies"), tmp_path / "broker.json"
    trainer, worker, first = _seven_steps(own, path, past)
    distances = random.Random(len(durable.kind.name)).sample(range(past.copies), 7)
    for turn, which in enumerate([0, past.copies - 1, *distances]):
        past.bring_back(which)
        # After its first recovery its epoch is among what the server has lost.
        told = Fenced if same_trainer and turn else Rewound
        with pytest.raises(told):
            trainer.next_batch(timeout=0)
        with pytest.raises(told):
            trainer.advance(allow_empty=True)
        leader = trainer if same_trainer else own.trainer(reopen=True)
        report = leader.recover(path)
        assert (report.version_to, leader.version, report.missing) == (5, 5, [])
        assert leader.cursor == 24
        history = surviving(first, 5) | train_to_the_end(own, leader, worker)
        judge_once(history, ALL)
        own.check()


def test_rewound_is_told_at_every_distance_before_a_batch_or_an_advance(
    own: Lab, durable: ServerUnderTest, tmp_path: Path
):
    """As long as a call of the trainer itself was lost; its first call says so, whichever it is."""
    past, path = Past(durable, tmp_path / "copies"), tmp_path / "broker.json"
    trainer, _, _ = _seven_steps(own, path, past)
    number = trainer._state.numbered.last
    for which in range(0, past.copies, 2):
        past.bring_back(which)
        before = own.dump()
        for call in (
            lambda: trainer.next_batch(timeout=0),
            lambda: trainer.advance(allow_empty=True),
            lambda: trainer.enqueue(Task(id="new")),
            lambda: trainer.discard(["t23"]),
            trainer.pause,
        ):
            with pytest.raises(Rewound):
                call()
            assert trainer._state.numbered.last == number
        assert own.dump() == before
        with pytest.raises(Rewound):
            trainer.checkpoint(tmp_path / "other")


@pytest.mark.parametrize("full", [True, False])
def test_a_server_that_lost_everything_is_refilled_or_named_what_to_enqueue(
    own: Lab, durable: ServerUnderTest, tmp_path: Path, full: bool
):
    path = tmp_path / "broker.json"
    trainer = own.trainer(consumer_batch_size=2, max_staleness=2, max_concurrent_rollouts=8)
    worker = own.worker()
    given = {
        f"t{i}": Task(id=f"t{i}", payload={"row": i}, samples=1 + i % 3, min_samples=1, priority=i % 2)
        for i in range(24)
    }
    trainer.enqueue(given.values(), cursor={"row": 24})
    history = dict(enumerate(train(trainer, worker, 3)))
    worker.claim(2)
    trainer.checkpoint(path, full=full)
    train(trainer, worker, 2)
    data = Path(durable._data)
    durable.kill()
    shutil.rmtree(data)
    durable.start()
    for call in (lambda: trainer.next_batch(timeout=0), lambda: trainer.advance(allow_empty=True)):
        with pytest.raises(NoRun):
            call()

    report = trainer.recover(path)

    finished = {name for step in history.values() for name in step}
    unfinished = sorted(set(given) - finished)
    assert (report.version_to, trainer.cursor, report.cursor) == (3, {"row": 24}, {"row": 24})
    assert (report.accepted[1], report.running[1], report.capacity[1]) == (6, 0, 6)
    if full:
        assert (report.restored, report.missing) == (len(unfinished), [])
    else:
        assert (report.restored, report.missing) == (0, unfinished)
        trainer.enqueue(given[name] for name in report.missing)
    for name in unfinished:
        row = own.row(name)
        assert (row.samples, row.min_samples, row.priority) == (given[name].samples, 1, given[name].priority)
    other = own.worker()
    (attempt,) = other.claim(1)
    assert attempt.payload == given[attempt.task].payload
    assert attempt.version == 3
    other.release(attempt)
    history |= train_to_the_end(own, trainer, worker)
    judge_once(history, ALL)


def test_a_refill_that_was_interrupted_is_done_again(own: Lab, durable: ServerUnderTest, tmp_path: Path):
    """Killed between the end of the recovery and the last of its tasks; and the server is lost once more."""
    path = tmp_path / "broker.json"
    trainer = own.trainer(consumer_batch_size=2, max_staleness=2, max_concurrent_rollouts=8)
    worker = own.worker()
    trainer.enqueue(Task(id=f"u{i}") for i in range(200))
    history = dict(enumerate(train(trainer, worker, 3)))
    trainer.checkpoint(path, full=True)
    for at in (5, 6, 7, 8):
        for name in own.command("KEYS", own.key("*")):
            own.command("DEL", name)
        with pytest.raises(Killed), kill(trainer, at):
            trainer.recover(path)
        successor = own.trainer(reopen=True)
        report = successor.recover(path)
        assert report.missing == []
        assert own.stat("n_tasks") == 194
        trainer = successor
    judge_once(history | train_to_the_end(own, trainer, worker), [f"u{i}" for i in range(200)])


def test_workers_writes_that_are_lost_alone_are_done_again(own: Lab, durable: ServerUnderTest, tmp_path: Path):
    """No call of the trainer was lost, so the trainer goes on; the workers have to do their lost work once more."""
    past = Past(durable, tmp_path / "copies")
    trainer = own.trainer(consumer_batch_size=2, max_staleness=1, max_concurrent_rollouts=8)
    worker = own.worker()
    trainer.enqueue([Task(id=name) for name in ALL])
    history = dict(enumerate(train(trainer, worker, 2)))
    past.keep()
    held, done = worker.claim(2)
    assert worker.submit(done, b"x").answer == "accepted"
    past.bring_back(0)

    assert worker.submit(held, b"x").answer == "unknown"
    assert worker.submit(done, b"y").answer == "unknown"
    history |= train_to_the_end(own, trainer, worker)

    judge_once(history, ALL)
    own.check()


def test_an_old_snapshot_under_a_running_trainer_that_knows_no_distance(lab: Lab, tmp_path: Path):
    """On every kind of server, without a file: keys are put back as DUMP read them."""
    trainer = lab.trainer(consumer_batch_size=1, max_staleness=2, max_concurrent_rollouts=4)
    worker = lab.worker()
    trainer.enqueue(tasks(12))
    history = dict(enumerate(train(trainer, worker, 2)))
    copies = [copy_of(lab)]
    for step in range(2, 6):
        history[step] = train(trainer, worker)[0]
        if step == 3:
            trainer.checkpoint(tmp_path / "four")
        copies.append(copy_of(lab))
    for which in [0, 1, 2, 3, 2, 0]:
        put_back(lab, copies[which])
        with pytest.raises((Rewound, Fenced)):
            trainer.next_batch(timeout=0)
        report = trainer.recover(tmp_path / "four")
        assert (report.version_to, report.missing) == (4, [])
        assert report.finished == max(0, 4 - (2 + which)), "what the forgotten steps had trained"
        rest = train_to_the_end(lab, trainer, worker)
        judge_once(surviving(history, 4) | rest, [f"t{i}" for i in range(12)])


@pytest.mark.parametrize("makes_versions_anew", [False, True])
@pytest.mark.parametrize("retried", ["before", "after"])
def test_what_a_forgotten_step_trained_is_not_made_new_by_a_retry(
    lab: Lab, tmp_path: Path, retried: str, makes_versions_anew: bool
):
    """Cancelled and retried by somebody while the server knows nothing of its end: before the recovery, or after."""
    trainer, worker = lab.trainer(consumer_batch_size=1, max_staleness=4, max_concurrent_rollouts=4), lab.worker()
    trainer.enqueue(tasks(6))
    copy = copy_of(lab)
    history = dict(enumerate(train(trainer, worker, 2)))
    trainer.checkpoint(tmp_path / "two")
    put_back(lab, copy)
    consumed = [name for names in history.values() for name in names]
    stranger = lab.trainer(reopen=True)
    assert set(stranger.cancel(consumed).values()) == {"cancelled"}
    if retried == "before":
        assert set(stranger.retry(consumed).values()) == {"retried"}
    if makes_versions_anew:
        for _ in range(3):
            stranger.advance(allow_empty=True)

    report = lab.trainer(reopen=True).recover(tmp_path / "two", dry_run=True)
    assert report.finished == 2
    leader = lab.trainer(reopen=True)
    report = leader.recover(tmp_path / "two")

    assert (report.version_to, report.finished, report.missing) == (2, 2, [])
    if retried == "after":
        assert set(leader.retry(consumed).values()) == {"freed"}
    judge_once(history | train_to_the_end(lab, leader, worker), [f"t{i}" for i in range(6)])


def test_a_batch_of_a_version_that_was_made_anew_is_trained_again(lab: Lab, tmp_path: Path):
    """Its step is not the one of that number that the checkpoint's history has."""
    trainer, worker = lab.trainer(consumer_batch_size=1, max_staleness=4, max_concurrent_rollouts=4), lab.worker()
    trainer.enqueue(tasks(2))
    copy = copy_of(lab)
    history = dict(enumerate(train(trainer, worker, 2)))
    trainer.checkpoint(tmp_path / "two")
    put_back(lab, copy)
    stranger = lab.trainer(reopen=True)
    stranger.cancel(["t0", "t1"])
    stranger.enqueue(Task(id="new"))
    assert train(stranger, worker) == [["new"]]
    for _ in range(2):
        stranger.advance(allow_empty=True)

    leader = lab.trainer(reopen=True)
    leader.recover(tmp_path / "two")

    judge_once(history | train_to_the_end(lab, leader, worker), ["t0", "t1", "new"])


def test_a_dead_task_that_is_retried_after_the_checkpoint_stays(lab: Lab, tmp_path: Path):
    """The server forgot nothing: the retry is newer than the list."""
    trainer, worker = lab.trainer(consumer_batch_size=1, max_staleness=4, max_concurrent_rollouts=4), lab.worker()
    trainer.enqueue(tasks(4))
    trainer.cancel(["t3"])
    history = dict(enumerate(train(trainer, worker, 1)))
    trainer.checkpoint(tmp_path / "one")
    trainer.retry(["t3"])
    train(trainer, worker, 1)

    report = trainer.recover(tmp_path / "one")

    assert (report.finished, report.missing) == (0, [])
    judge_once(history | train_to_the_end(lab, trainer, worker), [f"t{i}" for i in range(4)])


def copy_of(lab: Lab) -> dict[bytes, bytes]:
    return {name: lab.command("DUMP", name) for name in lab.command("KEYS", lab.key("*"))}


def put_back(lab: Lab, copy: dict[bytes, bytes]) -> None:
    for name in lab.command("KEYS", lab.key("*")):
        lab.command("DEL", name)
    for name, value in copy.items():
        lab.command("RESTORE", name, 0, value)


def test_a_server_that_went_back_does_not_overwrite_a_good_checkpoint(lab: Lab, tmp_path: Path):
    trainer, worker = lab.trainer(consumer_batch_size=1, max_staleness=9, keep_checkpoints=5), lab.worker()
    trainer.enqueue(tasks(10), cursor=10)
    copy = copy_of(lab)
    train(trainer, worker, 4)
    trainer.checkpoint(tmp_path / "file")
    before = (tmp_path / "file").read_bytes()
    put_back(lab, copy)
    with pytest.raises(Rewound):
        trainer.checkpoint(tmp_path / "file")
    assert (tmp_path / "file").read_bytes() == before


def test_workers_that_have_loaded_surviving_weights_go_on_after_a_loss(lab: Lab, tmp_path: Path):
    """The checkpoint knows who made each version: nobody loads again what he has, and lost versions stay lost."""
    trainer, worker = lab.trainer(max_staleness=2, staleness_limit=2, max_concurrent_rollouts=9), lab.worker()
    trainer.enqueue(tasks(12))
    policies: list[Policy] = []
    for _ in range(4):
        policies.append(Policy(version=trainer.version, epoch=trainer.epoch))
        train(trainer, worker)
        if trainer.version == 3:
            trainer.checkpoint(tmp_path / "three", full=True)
    for name in lab.command("KEYS", lab.key("*")):
        lab.command("DEL", name)
    trainer.recover(tmp_path / "three")

    lost = Policy(version=4, epoch=policies[0].epoch)
    claims: dict[int, str] = {}
    for policy in (*policies, lost):
        one = lab.worker(policy=policy)
        (attempt,) = one.claim(1) or [None]
        claims[policy.version] = one.claim_reason if attempt is None else attempt.policy.epoch
        if attempt is not None:
            one.release(attempt)
    assert claims == {0: "weights_stale", **dict.fromkeys((1, 2, 3), policies[0].epoch), 4: "weights_stale"}
