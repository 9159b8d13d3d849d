"""A seeded walk over the public API of one run, with a ledger of its own that does not read the server's state.

The ledger follows the guarantees only: the tasks that the surviving history has trained on, its policies, the tasks that
ended otherwise, and the same for each checkpoint.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from broker import Attempt, Policy, Rollout, RunConfig, Sample, Task, Trainer, Worker
from broker.connections import open_transport
from broker.errors import BrokerError, Exhausted, Recovering, TooMany, WaitTimeout
from broker.protocol import keys
from broker.recovery.checkpoint_files import member_of, members
from broker.recovery.recover import RecoveryReport
from tests.recovery.interruptions import MOMENTS, Killed, kill

#: Actions of one walk before everything is trained to the end.
ACTIONS = 45
#: The lease of a walk's workers, milliseconds.
LEASE_MS = 10_000


@dataclass
class Saved:
    """A checkpoint, and the content of the ledger when it was written."""

    path: Path
    version: int
    finished: set[str]
    retried: int


@dataclass
class Ledger:
    """The truth about the run."""

    history: dict[int, list[str]] = field(default_factory=dict[int, list[str]])
    policies: dict[int, str] = field(default_factory=dict[int, str])
    finished: set[str] = field(default_factory=set[str])
    retried: list[str] = field(default_factory=list[str])
    enqueued: list[str] = field(default_factory=list[str])
    claimed: dict[str, Policy] = field(default_factory=dict[str, Policy])
    saved: list[Saved] = field(default_factory=list[Saved])
    committed: list[int] = field(default_factory=list[int])  # the newest committed versions, oldest first
    floor: int = 0
    batch: list[str] = field(default_factory=list[str])
    cursor: int = 0


def committed_versions(url: str, run: str) -> set[int]:
    """The versions of committed checkpoints, by the server."""
    with open_transport(url) as transport:
        return {int(version) for version in transport.command("HGET", keys.state(run), "checkpoints").split()}


def _name(path: Path) -> str:
    """The user's name of a checkpoint."""
    return path.name.partition(".json")[0] + ".json"


class Walk:
    """One walk.

    Args:
        url: the server.
        run: name of the run.
        seed: decides everything.
        folder: for the checkpoints.
    """

    def __init__(self, url: str, run: str, seed: int, folder: Path) -> None:
        self.rng, self.url, self.run, self.folder = random.Random(seed), url, run, folder
        self.now, self.log, self.paths = 1_000_000, list[str](), 0
        rng = self.rng
        self.b, self.s = rng.choice([1, 2, 3]), rng.choice([0, 1, 2, None])
        self.config = RunConfig(
            consumer_batch_size=self.b,
            max_staleness=self.s,
            staleness_limit=None if self.s is None else rng.choice([self.s, self.s, None]),
            max_concurrent_rollouts=rng.choice([1, 3, 8]),
            on_stale=rng.choice(["requeue", "keep", "wait"]),
            keep_checkpoints=rng.choice([1, 2, 3]),
            max_attempts=1_000_000,
            max_stale_requeues=1_000_000,
            lease_ms=LEASE_MS,
            retry_backoff_ms=rng.choice([0, 3_000]),
            halt_after_failures=0,  # the ledger counts the dead
            events_maxlen=0,
        )
        self.ledger = Ledger()
        self.trainer = self._open()
        self.ledger.policies[0] = self.trainer.epoch
        self.given: list[Attempt] = []
        self.workers = [self._worker() for _ in range(2)]

    def _clock(self) -> int:
        return self.now

    def _open(self) -> Trainer:
        return Trainer(self.url, self.run, self.config, clock=self._clock)

    def _worker(self) -> Worker:
        return Worker(self.url, self.run, clock=self._clock, heartbeat=False, name="w")

    # What a walk with weights does otherwise.

    def _blob(self, version: int) -> bytes:
        """What comes with a version that is about to begin."""
        return b"w" * self.rng.choice([0, 5])

    def _recover(self, source: Path | None, **how: Any) -> RecoveryReport:
        return self.trainer.recover(source, **how)

    def _use_newest(self, worker: Worker) -> None:
        worker.policy = None

    def _handed_out(self, worker: Worker, attempt: Attempt) -> None:
        self.ledger.claimed[attempt.id] = attempt.policy
        self.given.append(attempt)

    def _delivered(self, sample: Sample) -> None:
        policy = self.ledger.claimed[sample.attempt_id]
        assert self.ledger.policies.get(policy.version) == policy.epoch, "delivered from a lost future"

    def close(self) -> None:
        """Closes the clients."""
        for client in (*self.workers, self.trainer):
            client.close()

    # -- the walk ----------------------------------------------------------------------------------------------------

    def walk(self) -> None:
        """Walks, and judges the history at the end."""
        self.enqueue()
        for _ in range(ACTIONS):
            name = self.rng.choice(self._weighted).__name__
            self.log.append(name)
            getattr(self, name)()
            self.check()
        self.finish()

    def check(self) -> None:
        """What must hold at any time."""
        stats = self.trainer.stats()
        if stats.recovering is None:
            assert self.trainer.audit().drift == {}
            assert stats.version == len(self.ledger.history), "the version is the number of surviving steps"
            if self.s is not None:
                assert stats.capacity <= (self.s + 1) * self.b, f"capacity {stats.capacity}"
            assert stats.accepted >= stats.version * self.b

    def finish(self) -> None:
        """Trains on all that is left; each task of the surviving history exactly once."""
        self.log.append("finish")
        self._recovered()
        self.trainer.resume()
        for _ in range(1_000):
            for worker in self.workers:
                self._use_newest(worker)
                for attempt in self._claim(worker, 64) and worker.held:
                    self._submit(worker, attempt)
            try:
                if self._take(None, short=True):
                    self._advance()
                    continue
            except Exhausted:
                break
            self.now += 1_000
            self.trainer.requeue()
        else:
            raise AssertionError(f"does not end: {self.trainer.stats()}")
        trained = [name for names in self.ledger.history.values() for name in names]
        assert len(trained) == len(set(trained)), "trained twice"
        expected = set(self.ledger.enqueued) - self.ledger.finished
        assert set(trained) == expected, (sorted(expected - set(trained)), sorted(set(trained) - expected))

    # -- workers -----------------------------------------------------------------------------------------------------

    def _claim(self, worker: Worker, n: int) -> bool:
        for attempt in worker.claim(n):
            assert attempt.id not in self.ledger.claimed
            self._handed_out(worker, attempt)
        return True

    def claim(self) -> None:
        worker = self.rng.choice(self.workers)
        self._claim(worker, self.rng.choice([1, 2, 5]))

    def _some(self) -> tuple[Worker, list[Attempt]]:
        worker = self.rng.choice(self.workers)
        over = [attempt for attempt in self.given[-20:] if attempt.cancelled]  # the worker was told, and goes on
        held = worker.held + over[-3:]
        return worker, self.rng.sample(held, min(len(held), self.rng.choice([1, 2, 9])))

    def _submit(self, worker: Worker, attempt: Attempt) -> None:
        body = bytes([len(attempt.id)]) * self.rng.choice([10, 30_000])  # inline, and by a SET before
        answer = worker.submit(attempt, body).answer
        policy = self.ledger.claimed[attempt.id]
        if answer == "accepted" and self.trainer.stats().recovering is None:
            assert self.ledger.policies.get(policy.version) == policy.epoch, "accepted from a lost future"

    def submit(self) -> None:
        worker, attempts = self._some()
        for attempt in attempts:
            self._submit(worker, attempt)

    def reject(self) -> None:
        worker, attempts = self._some()
        for attempt in attempts[:1]:
            if worker.reject(attempt, "no").answer == "rejected":
                self.ledger.finished.add(attempt.task)

    def fail(self) -> None:
        worker, attempts = self._some()
        for attempt in attempts[:1]:
            if worker.fail(attempt, "boom", retry=self.rng.random() < 0.7).answer == "failed":
                self.ledger.finished.add(attempt.task)

    def release(self) -> None:
        worker, attempts = self._some()
        if attempts:
            worker.release(attempts)

    def renew(self) -> None:
        self.rng.choice(self.workers).renew()

    def old_weights(self) -> None:
        """A worker names older weights, perhaps of a lost future; or goes on to the newest."""
        known = list(self.ledger.claimed.values())
        self.rng.choice(self.workers).policy = self.rng.choice(known) if known and self.rng.random() < 0.6 else None

    def leave(self) -> None:
        """A worker leaves and another comes; or time passes until leases end."""
        which = self.rng.randrange(len(self.workers))
        if self.rng.random() < 0.5:
            self.workers[which].close()
            self.workers[which] = self._worker()
        else:
            self.now += LEASE_MS + 1

    def wait(self) -> None:
        self.now += self.rng.choice([10, 1_000, 4_000])
        self.trainer.requeue()

    # -- the trainer -------------------------------------------------------------------------------------------------

    def enqueue(self) -> None:
        """The next rows of the data set, as a loader with a cursor brings them."""
        first, n = self.ledger.cursor, self.rng.choice([3, 6, 10])
        names = [f"t{i}" for i in range(first, first + n)]
        rows = [Task(id=name, samples=3 if int(name[1:]) % 4 == 3 else 1, priority=int(name[1:]) % 2) for name in names]
        try:
            self.trainer.enqueue(rows, cursor=first + n)
        except Recovering:
            return
        self.ledger.cursor = first + n
        self.ledger.enqueued += [name for name in names if name not in self.ledger.enqueued]

    def _accept(self, rollout: Rollout) -> bool:
        if self.rng.random() < 0.8:
            return True
        self.ledger.finished.add(rollout.task)
        return False

    def _take(self, n: int | None, *, short: bool = False, filtered: bool = False) -> bool:
        accept: Callable[[Rollout], bool] | None = self._accept if filtered else None
        try:
            batch = self.trainer.next_batch(n, timeout=0, short=short, accept=accept)
        except (WaitTimeout, Recovering, TooMany):
            return False
        names = [rollout.task for rollout in batch]
        assert len(set(names)) == len(names)
        for rollout in batch:
            assert len(rollout.samples) == (3 if int(rollout.task[1:]) % 4 == 3 else 1)
            for sample in rollout.samples:
                self._delivered(sample)
                limit = self.config.oldest_trained
                if limit is not None and self.config.on_stale != "keep":
                    assert self.trainer.version - sample.version <= limit, "too stale"
        assert not set(names) & self.ledger.finished
        self.ledger.batch = names
        return True

    def _advance(self) -> None:
        version = self.trainer.version
        assert self.trainer.advance(self._blob(version + 1)) == version + 1
        self._advanced(version)

    def _advanced(self, version: int) -> None:
        self.ledger.history[version] = self.ledger.batch
        self.ledger.policies[version + 1] = self.trainer.epoch

    def take(self) -> None:
        with suppress(Exhausted):
            self._take(
                self.rng.choice([None, 1, self.b + 1]), short=self.rng.random() < 0.5, filtered=self.rng.random() < 0.3
            )

    def step(self) -> None:
        with suppress(Exhausted):
            if self._take(self.rng.choice([None, None, 1]), short=True, filtered=self.rng.random() < 0.3):
                self._advance()

    def busy_step(self) -> None:
        """Work enough for a batch, and the batch."""
        worker = self.rng.choice(self.workers)
        self._claim(worker, 9)
        for attempt in worker.held:
            self._submit(worker, attempt)
        self.step()

    def _finished_by(self, call: Callable[[list[str]], dict[str, str]], word: str) -> None:
        names = self.rng.sample(self.ledger.enqueued, min(3, len(self.ledger.enqueued)))
        with suppress(Recovering):
            self.ledger.finished |= {name for name, answer in call(names).items() if answer == word}

    def discard(self) -> None:
        self._finished_by(self.trainer.discard, "discarded")

    def cancel(self) -> None:
        self._finished_by(lambda names: self.trainer.cancel(names[:1]), "cancelled")

    def retry(self) -> None:
        names = sorted(self.ledger.finished)[:2]
        with suppress(Recovering):
            for name, answer in self.trainer.retry(names).items() if names else ():
                if answer == "retried":
                    self.ledger.finished.discard(name)
                    self.ledger.retried.append(name)

    def pause(self) -> None:
        self.rng.choice([self.trainer.pause, self.trainer.drain, self.trainer.resume, self.trainer.resume])()

    # -- checkpoints and deaths --------------------------------------------------------------------------------------

    def _path(self) -> Path:
        """What the next checkpoint is called: a name that others have had, or one of its own."""
        self.paths += 1
        return self.folder / self.rng.choice(["broker.json", f"{self.paths}.json"])

    def checkpoint(self) -> None:
        path = self._path()
        with suppress(Recovering):
            made = self.trainer.checkpoint(path, weights=self.trainer.settle(), full=self.rng.random() < 0.3)
            assert made.path is not None
            self._saved(made.path)
            self._committed()

    def _saved(self, path: Path) -> None:
        ledger = self.ledger
        mine, there = member_of(path), [member_of(saved.path) for saved in ledger.saved]
        assert mine is not None
        # The same trainer's of the same version, under the same name, takes the place of the one before.
        taken = {
            member.path
            for member in there
            if member is not None and (member.epoch, member.version) == (mine.epoch, mine.version)
            if _name(member.path) == _name(path) and not member.path.exists()
        }
        ledger.saved = [saved for saved in ledger.saved if saved.path not in taken]
        ledger.saved.append(Saved(path, len(ledger.history), set(ledger.finished), len(ledger.retried)))

    def _committed(self) -> None:
        """A checkpoint of the version counts, whichever file it is in: the floor rises, the files below are of no use."""
        ledger = self.ledger
        versions = sorted({len(ledger.history), *ledger.committed})
        ledger.committed = versions[-self.config.keep_checkpoints :]
        ledger.floor = max(ledger.floor, ledger.committed[0])
        ledger.saved = [saved for saved in ledger.saved if saved.version >= ledger.floor]

    def reopen(self) -> None:
        """The trainer is gone; the next one goes on without recovering, as after a failure of its connection."""
        self.trainer.close()
        self.trainer = self._open()

    def _back_to(self, saved: Saved | None) -> None:
        """The ledger follows a recovery."""
        ledger = self.ledger
        version = 0 if saved is None else saved.version
        ledger.history = {step: names for step, names in ledger.history.items() if step < version}
        ledger.policies = {v: epoch for v, epoch in ledger.policies.items() if v <= version}
        ledger.finished = set() if saved is None else saved.finished - set(ledger.retried[saved.retried :])
        ledger.batch = []
        ledger.committed = [v for v in ledger.committed if v <= version]
        if saved is not None:
            ledger.saved = ledger.saved[: ledger.saved.index(saved) + 1]
        ledger.cursor = self.trainer.cursor  # the loader goes on from the recovered cursor

    def _choice(self) -> Saved | None:
        return self.rng.choice(self.ledger.saved) if self.ledger.saved else None

    def recover(self) -> None:
        """From any kept checkpoint, or from nothing where none was committed; sometimes asked before."""
        saved = self._choice()
        source, in_flight = None if saved is None else saved.path, self.rng.choice(["keep", "requeue"])
        if saved is not None and self.rng.random() < 0.5:
            saved, source = self._newest(saved)
        if self.rng.random() < 0.3:
            said = self.trainer.recover(source, in_flight=in_flight, dry_run=True)
            done = self._recover(source, in_flight=in_flight)
            for name in (
                "requeued",
                "ready_again",
                "finished",
                "results_kept",
                "attempts_kept",
                "accepted",
                "running",
                "capacity",
            ):
                assert getattr(said, name) == getattr(done, name), name
        else:
            done = self._recover(source, in_flight=in_flight)
        assert done.missing == []
        assert self.trainer.version == (0 if saved is None else saved.version)
        self._back_to(saved)

    def _newest(self, saved: Saved) -> tuple[Saved, Path]:
        """What the name that a file shares with others stands for, where the ledger has that one; else the file alone."""
        name = _name(saved.path)
        taken = self.trainer.recover(self.folder / name, dry_run=True).source
        others = [other for other in self.ledger.saved if _name(other.path) == name]
        if not any(str(other.path) == taken for other in others):
            return saved, saved.path  # made in what a recovery undid, and of no later version
        assert str(others[-1].path) == taken, f"{taken} is not the newest of {others}"
        return others[-1], self.folder / name

    def _recovered(self) -> None:
        """Checks that an interrupted recovery has left nothing behind."""
        if self.trainer.stats().recovering is not None:
            self.recover()

    def die(self) -> None:
        """The trainer is killed in the middle of something; the next one recovers from a file on disk, or finds that it need not."""
        what = self.rng.choice([self._die_recovering, self._die_checkpointing, self._die_advancing])
        self.log.append(what.__name__)
        what()

    def _killed(self, call: Callable[[], object], most: int) -> bool:
        with kill(self.trainer, self.rng.randint(1, most), self.rng.choice(MOMENTS)):
            try:
                call()
            except Killed:
                died = True
            except BrokerError:
                died = False
            else:
                died = False
        self.reopen()
        return died

    def _die_recovering(self) -> None:
        saved = self._choice()
        self._killed(lambda: self._recover(None if saved is None else saved.path), 8)
        # Where it had begun, a file of later cannot be used any more: go on with the same.
        self._recover(None if saved is None else saved.path)
        self._back_to(saved)

    def _die_checkpointing(self) -> None:
        """The file is there or it is not; it counts from its rename on."""
        path = self._path()
        before = {member.path for member in members(path)}
        self._killed(lambda: self.trainer.checkpoint(path, weights=self.trainer.settle()), 9)
        for made in {member.path for member in members(path)} - before:
            self._saved(made)
        if len(self.ledger.history) in committed_versions(self.url, self.run):
            self._committed()

    def _die_advancing(self) -> None:
        """Whether it advanced is unknown to it; the server says."""
        with suppress(Exhausted):
            if not self._take(None, short=True):
                return
            version, epoch = self.trainer.version, self.trainer.epoch
            self._killed(lambda: self.trainer.advance(self._blob(version + 1)), 1)
            if self.trainer.version > version:
                self.ledger.history[version] = self.ledger.batch
                self.ledger.policies[version + 1] = epoch

    _weighted: tuple[Callable[[Walk], None], ...] = (
        *([enqueue] * 2), *([claim] * 5), *([submit] * 6), *([step] * 4), *([busy_step] * 4), *([take] * 2), *([checkpoint] * 4),
        *([recover] * 3), *([die] * 3), *([reopen] * 1), *([old_weights] * 2), *([wait] * 2),
        reject, fail, release, renew, leave, discard, cancel, retry, pause,
    )  # fmt: skip
