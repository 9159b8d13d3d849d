"""200,000 tasks in all states recover in bounded pieces, and other clients are served meanwhile."""

from __future__ import annotations

import dataclasses
import os
import threading
import time
from collections import Counter
from collections.abc import Callable, Generator
from pathlib import Path
from typing import Any

import pytest

from broker import RunConfig, Trainer
from broker.checkpoint import read_checkpoint
from broker.connections import open_transport
from broker.operation import Operation
from broker.operations import anyone, trainer, worker
from broker.operations.trainer import NewTask
from broker.operations.worker import Submission
from broker.recovery import RecoveryReport
from tests.conformance.lab import Lab, RawTrainer, RawWorker
from tests.servers import ServerUnderTest, real_kinds

TASKS = 200_000
#: Longest that a script may take on an idle server, microseconds.
LONGEST_US = 10_000
_ASK_EVERY_S = 0.003
#: Where others use more of the processors than this, caches are theirs too, and a script takes up to twice as long.
_IDLE = 0.1
#: What goes into SLOWLOG. Not everything: to log each command of a script, and to free all that, costs as much as the script.
_LOGGED_US = 200
CONFIG = RunConfig(
    consumer_batch_size=5_000, max_staleness=100, max_concurrent_rollouts=150_000, retry_backoff_ms=60_000,
    retry_backoff_max_ms=60_000, max_finished=100_000, lease_ms=10**9, events_maxlen=0,
)  # fmt: skip


@pytest.fixture
def own(run: str) -> Generator[Lab]:
    """A server of its own, so that nobody else is in its slow log."""
    with ServerUnderTest(real_kinds()[0], settings={"slowlog-max-len": "10000"}) as server, Lab(server, run) as lab:
        yield lab


class Filler:
    """Brings a run to a state with large pipelines of the very operations that clients use."""

    def __init__(self, lab: Lab) -> None:
        self.lab = lab
        self.trainer: RawTrainer = lab.raw_trainer(**CONFIG.model_dump())
        self.worker: RawWorker = lab.raw_worker()
        self.step = 0

    def _send(self, operations: list[Operation[Any]]) -> list[Any]:
        answers: list[Any] = []
        for at in range(0, len(operations), 20):
            answers += self.lab.transport.execute(operations[at : at + 20])
        assert not any(isinstance(answer, Exception) for answer in answers), answers
        return answers

    def enqueue(self, first: int, last: int, samples: int = 1) -> None:
        operations: list[Operation[Any]] = []
        for at in range(first, last, 1_000):
            self.trainer.number += 1
            gate = trainer.trainer_gate(self.trainer.token, self.trainer.number)
            new = [NewTask(f"t{i}", b"p", samples, samples) for i in range(at, min(at + 1_000, last))]
            operations.append(trainer.enqueue(self.lab.run, gate, new, now=self.lab.now))
        self._send(operations)

    def claim(self, slots: int) -> list[str]:
        operations: list[Operation[Any]] = []
        for _ in range(0, slots, 500):
            self.worker.number += 1
            operations.append(
                worker.claim(
                    self.lab.run,
                    self.worker.session,
                    self.worker.number,
                    500,
                    f"r{self.worker.number}",
                    now=self.lab.now,
                )
            )
        claimed = [granted.attempt_id for answer in self._send(operations) for granted in answer.granted]
        assert len(claimed) == slots
        return claimed

    def submit(self, attempts: list[str], *, accept: bool = True) -> None:
        items = [Submission(attempt, accept, b"x") for attempt in attempts]
        self._send(
            [worker.submit(self.lab.run, items[at : at + 250], now=self.lab.now) for at in range(0, len(items), 250)]
        )

    def fail(self, attempts: list[str], *, may_retry: bool) -> None:
        self._send(
            [worker.fail(self.lab.run, attempt, "boom", may_retry=may_retry, now=self.lab.now) for attempt in attempts]
        )

    def train(self, *sizes: int) -> None:
        for size in sizes:
            for _ in range(0, size, 1_000):
                taken = self.trainer.take(self.step, size, limit=1_000)
            self.trainer.advance(self.step, taken.digest)
            self.step += 1


def _checkpoint(filler: Filler, path: Path) -> None:
    """By a trainer of its own, whose epoch the filler goes on with."""
    with Trainer(filler.lab.url, filler.lab.run, clock=filler.lab.clock) as leader:
        leader.checkpoint(path)
        filler.trainer.token, filler.trainer.number = leader._core.channel.token, leader._core.channel._last


def _fill(lab: Lab, path: Path) -> None:
    """60,000 tasks were worked on: consumed before and after version 2, batched, ready, running with groups, delayed, dead, rejected."""
    filler = Filler(lab)
    _checkpoint(filler, path.with_name("zero"))  # a floor of 0: nothing is freed
    filler.enqueue(0, 30_000)
    filler.enqueue(30_000, 35_000, samples=8)
    filler.enqueue(35_000, TASKS)
    filler.submit(filler.claim(12_000))
    filler.train(5_000, 4_000)
    kept = filler.claim(6_000)  # by version 2
    _checkpoint(filler, path)
    filler.submit(kept[:3_000])
    filler.train(5_000)
    filler.submit(filler.claim(9_000))  # by version 3
    filler.train(4_000)
    filler.fail(filler.claim(1_500), may_retry=True)
    filler.fail(filler.claim(500), may_retry=False)
    filler.submit(filler.claim(1_000), accept=False)
    groups = filler.claim(40_000)
    filler.submit(groups[::2])
    filler.claim(10_000)


def _copy_run(lab: Lab, run: str) -> None:
    """The same state under another name, to measure once more."""
    old = f"rb1:{{{lab.run}}}:".encode()
    names = lab.command("KEYS", f"rb1:{{{lab.run}}}:*")
    for at in range(0, len(names), 2_000):
        lab.transport.pipeline(
            [("COPY", name, name.replace(old, f"rb1:{{{run}}}:".encode())) for name in names[at : at + 2_000]]
        )


def _processor_s(pid: int) -> float:
    """The processor time of another process, Linux's way (CPUCLOCK_SCHED), seconds."""
    return time.clock_gettime((~pid << 3) | 2)


class Machine:
    """How much of the processors others used since it was made: the server is idle only where nobody else runs."""

    def __init__(self, pid: int) -> None:
        self._pid, self._start = pid, self._now(pid)

    @staticmethod
    def _now(pid: int) -> tuple[float, float, float]:
        """Time spent busy by anybody, by this test and its server, and altogether, in seconds."""
        ticks = [int(word) / os.sysconf("SC_CLK_TCK") for word in Path("/proc/stat").read_text().split()[1:9]]
        return sum(ticks) - ticks[3] - ticks[4], time.process_time() + _processor_s(pid), sum(ticks)

    def others(self) -> float:
        """The share of the processors that others had."""
        busy, own, total = (now - then for now, then in zip(self._now(self._pid), self._start, strict=True))
        return max(0.0, busy - own) / max(total, 1e-9)


class Bystander:
    """Another client, that asks for something small every few milliseconds: often enough to notice, too little to count."""

    def __init__(self, url: str) -> None:
        self.served, self.longest_s = 0, 0.0
        self._stop = threading.Event()
        self._transport = open_transport(url)
        self._thread = threading.Thread(target=self._ask)
        self._thread.start()

    def _ask(self) -> None:
        while not self._stop.wait(_ASK_EVERY_S):
            start = time.perf_counter()
            self._transport.command("PING")
            self.longest_s = max(self.longest_s, time.perf_counter() - start)
            self.served += 1

    def stop(self) -> None:
        self._stop.set()
        self._thread.join(30)
        self._transport.close()


class Meter:
    """Measures what each call of a trainer costs the server, in time on a processor.

    That is what a script takes on an idle server. SLOWLOG measures by the clock on the wall, which on a machine that
    others share goes on while the server waits for its turn: it is printed, but it is not judged.
    """

    def __init__(self, trainer: Trainer, pid: int) -> None:
        self.longest_us, self.longest, self.calls = 0, "", 0
        self._pid = pid
        self._inner: Any = trainer._driver.transport
        trainer._driver.transport = self  # type: ignore[assignment]

    def _processor_us(self) -> int:
        return int(_processor_s(self._pid) * 1e6)

    def _measured(self, call: Callable[..., Any], what: str, *args: Any) -> Any:
        before = self._processor_us()
        answer = call(*args)
        us = self._processor_us() - before
        self.calls += 1
        if us > self.longest_us:
            self.longest_us, self.longest = us, what
        return answer

    def execute(self, operations: list[Operation[Any]]) -> list[Any]:
        return self._measured(self._inner.execute, " ".join(one.script for one in operations), operations)

    def command(self, *args: Any) -> Any:
        return self._measured(self._inner.command, " ".join(map(str, args[:3])), *args)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)


def _recover(lab: Lab, run: str, path: Path, what: str) -> tuple[RecoveryReport, float]:
    """Recovers under the eyes of the slow log, a meter and a bystander: the report, and its longest call as a share of the bound."""
    made = dataclasses.replace(read_checkpoint(path), run=run)
    with Trainer(lab.url, run, clock=lab.clock) as leader:
        leader.stats()  # it is connected, and the script loaded
        meter, machine = Meter(leader, lab.server.pid), Machine(lab.server.pid)
        lab.command("CONFIG", "SET", "slowlog-log-slower-than", _LOGGED_US)
        lab.command("SLOWLOG", "RESET")
        bystander, start = Bystander(lab.url), time.perf_counter()
        try:
            report = leader.recover(made)
        finally:
            seconds = time.perf_counter() - start
            others = machine.others()
            bystander.stop()
        lab.command("CONFIG", "SET", "slowlog-log-slower-than", -1)
    bound_us = LONGEST_US if others < _IDLE else 2 * LONGEST_US
    entries = [entry for entry in lab.command("SLOWLOG", "GET", -1) if entry[3][0].upper() != b"CONFIG"]
    slowest = max(
        ((entry[2], entry[3][0].decode()) for entry in entries), default=(_LOGGED_US, "nothing logged, less than")
    )
    print(  # noqa: T201 -- the measurement is what is asked for
        f"\n{what}: {seconds:.2f} s, {meter.calls} calls; longest entry of SLOWLOG {slowest[0]} us ({slowest[1]}); "
        f"most processor time of a call {meter.longest_us} us ({meter.longest}); bound {bound_us} us (others used "
        f"{others:.0%} of the processors); another client was served {bystander.served} times, "
        f"at most {bystander.longest_s * 1e3:.1f} ms apart"
    )
    assert bystander.served > 10, "other clients are served meanwhile"
    return report, meter.longest_us / bound_us


@pytest.mark.slow
def test_200000_tasks_recover_in_bounded_pieces(own: Lab, tmp_path: Path):
    """What the scripts take on an idle server is judged by the server's time on a processor (see Meter); where that is
    too much the recovery of a copy, made before, is measured once more: caches are cold on a machine that is shared.
    """
    path = tmp_path / "broker.json"
    _fill(own, path)
    second = f"{own.run}.copy"
    _copy_run(own, second)
    before = {name: own.stat(name) for name in ("n_tasks", "version")}
    assert before == {"n_tasks": TASKS, "version": 4}

    report, longest = _recover(own, own.run, path, "recovery")
    if longest > 1:
        again, longest = _recover(own, second, path, "recovery of the copy")
        assert dataclasses.replace(again, run=own.run, epoch=report.epoch) == report
    assert longest <= 1

    assert (report.version_from, report.version_to, report.missing) == (4, 2, [])
    assert report.consumed_by_lost_steps == 9_000
    states = Counter[str]()
    for at in range(0, TASKS, 1_000):
        rows = own.command("HMGET", own.key("tasks"), *(f"t{i}" for i in range(at, at + 1_000)))
        states.update(row[:1].decode() for row in rows)
    assert sum(states.values()) == TASKS
    assert states["B"] == 9_000  # the surviving steps
    assert states["X"] + states["J"] == 0  # ended in lost steps
    assert report.accepted[1] == 2 * 5_000 + states["Y"] == own.stat("accepted")
    assert report.running[1] == states["R"] == own.stat("running")
    assert own.do(anyone.audit(own.run)) == {
        name: (value, value) for name, value in own.do(anyone.audit(own.run)).items() for value in [value[0]]
    }
    names = [f"t{i}" for i in range(0, TASKS, 7)]
    for at in range(0, len(names), 1_000):
        assert own.do(anyone.check(own.run, names[at : at + 1_000])) == []


@pytest.mark.slow
def test_the_largest_groups_are_swept_in_bounded_pieces(own: Lab, tmp_path: Path):
    """150 groups of 256 samples, all in flight or done by a lost policy: the most that one call can have to undo."""
    filler = Filler(own)
    filler.enqueue(0, 5_000)
    filler.enqueue(5_000, 5_150, samples=256)
    path = tmp_path / "broker.json"
    _checkpoint(filler, path)
    filler.submit(filler.claim(5_000))
    filler.train(5_000)
    attempts = filler.claim(150 * 256)
    filler.submit(attempts[::2])
    _copy_run(own, f"{own.run}.copy")

    report, longest = _recover(own, own.run, path, "recovery of large groups")
    if longest > 1:
        report, longest = _recover(own, f"{own.run}.copy", path, "recovery of the copy of large groups")

    assert (report.attempts_revoked, report.results_dropped) == (19_200, 19_200)
    assert longest <= 1
