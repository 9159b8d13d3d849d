"""`broker watch` shows why a run stands still, in a terminal of 60 columns too."""

from __future__ import annotations

import io
import json
import os
import pty
import re
import select
import sys
import time
from argparse import Namespace
from collections.abc import Callable, Generator
from contextlib import contextmanager, suppress
from itertools import pairwise
from typing import Any

import pytest
from rich.console import Console

from broker import Policy, RunConfig, Task, Trainer, Worker
from broker.cli.commands import watch
from broker.cli.commands.watch import EVENTS_BEFORE, MOST_PAGES, move, watch_run
from broker.cli.output import Output
from broker.cli.picture import Cursor, picture
from broker.connections.sync import run_blocking
from broker.inspection.events import PAGE, Follower
from broker.inspection.explanation import explain
from broker.inspection.history import KEEP_S, History, results
from broker.inspection.timeline import Timeline
from broker.local_server.embedded import EmbeddedServer
from broker.operator import Operator
from tests.child import Child
from tests.conformance.lab import Lab, tasks

WIDTHS = (60, 120)


class Watcher:
    """Draws the picture of a lab's run."""

    def __init__(self, lab: Lab) -> None:
        self.lab, self.history, self.timeline, self.cursor = lab, History(), Timeline(), Cursor()
        self.operator = Operator(lab.url)
        self.follower = Follower.of_the_last(self.operator.transport.command, lab.run, EVENTS_BEFORE)

    def shown(self, width: int = 120) -> str:
        lab = self.lab
        explanation = run_blocking(explain(lab.transport.io, lab.run, lab.now))
        self.history.add(lab.now / 1000, explanation.stats)
        self.timeline.read(self.follower, MOST_PAGES)
        stream = io.StringIO()
        console = Console(file=stream, width=width, force_terminal=False)
        console.print(picture(explanation, self.history, self.timeline, self.cursor, width=width))
        lines = stream.getvalue().splitlines()
        assert max(map(len, lines)) <= width
        return "\n".join(line.rstrip() for line in lines)


@pytest.fixture
def watcher(lab: Lab) -> Generator[Watcher]:
    lab.trainer(
        consumer_batch_size=2,
        max_staleness=1,
        staleness_limit=1,
        max_concurrent_rollouts=4,
        halt_after_failures=3,
        quarantine_after=0,
        max_attempts=1,
    )
    made = Watcher(lab)
    yield made
    made.operator.close()


def words(text: str) -> str:
    return " ".join(text.split())


def leader(lab: Lab) -> Trainer:
    return next(client for client in lab._clients if isinstance(client, Trainer))


@pytest.mark.parametrize("width", WIDTHS)
def test_no_worker(lab: Lab, watcher: Watcher, width: int):
    leader(lab).enqueue(tasks(3))
    assert "No worker is connected." in words(watcher.shown(width))


@pytest.mark.parametrize("width", WIDTHS)
def test_a_straggler_is_first_and_named(lab: Lab, watcher: Watcher, width: int):
    trainer, worker, slow = leader(lab), lab.worker(name="w1", lease_s=7200.0), lab.worker(name="slow", lease_s=7200.0)
    trainer.configure(max_staleness=9, staleness_limit=9)
    trainer.enqueue(tasks(20))
    (held,) = slow.claim(1)
    for _ in range(9):  # enough to compare with
        for attempt in worker.claim(1):
            lab.pass_ms(1_000)
            worker.submit(attempt, b"x")
        if trainer.stats().ready + trainer.stats().batched >= 2:
            trainer.next_batch(timeout=5)
            trainer.advance()
    lab.pass_ms(600_000)
    worker.claim(1)
    lab.pass_ms(1_000)
    shown = watcher.shown(width)
    first = next(line for line in shown.partition("held longest")[2].splitlines() if "t0" in line)
    assert held.task == "t0"
    assert "slow" in first
    assert "10 min" in first
    assert "A straggler: worker slow has held task t0 for 10 min" in words(shown)
    assert re.search(r"^slow +1 +10 min", shown, re.MULTILINE), "what it holds, and for how long"


@pytest.mark.parametrize("width", WIDTHS)
def test_long_names_hide_no_numbers(lab: Lab, watcher: Watcher, width: int):
    names = [f"rollout-worker-gpu-node-17-rank-{rank:02d}.cluster.local" for rank in range(2)]
    leader(lab).enqueue([Task(id=f"gsm8k/train/problem-{number:06d}-with-a-long-name") for number in range(9)])
    for name in names:
        lab.worker(name=name, lease_s=60.0 if name == names[1] else 7200.0).claim(3)
    lab.pass_ms(750_000)
    shown = watcher.shown(width)
    workers, _, slots = shown.partition("held longest")
    assert re.search(r"name +holds +for +failed +last claim", workers)
    assert re.search(r"^rollout-.+local +3 +12 min 30 s +- +got all$", workers, re.MULTILINE)
    assert len(re.findall(r"^gsm8k/.+name +rollout.+local +12 min 30 s$", slots, re.MULTILINE)) == 4
    assert re.search(r"^rollout.+local +1 +12 min 30 s +- +silent$", workers, re.MULTILINE)


@pytest.mark.parametrize("width", WIDTHS)
def test_all_are_failing(lab: Lab, watcher: Watcher, width: int):
    leader(lab).enqueue(tasks(6))
    worker = lab.worker(name="w1")
    while attempts := worker.claim(1):
        worker.fail(attempts[0], "CUDA out of memory", retry=False)
    shown = words(watcher.shown(width))
    assert "the run is halted" in shown
    assert "CUDA out of memory" in shown
    assert "w1 0 - 100% of 3" in shown, "the share of its attempts that failed"
    assert "resume" in shown


@pytest.mark.parametrize("width", WIDTHS)
def test_weights_are_too_old(lab: Lab, watcher: Watcher, width: int):
    trainer = leader(lab)
    old = Policy(version=0, epoch=trainer.policy.epoch)
    trainer.enqueue(tasks(9))
    for _ in range(3):
        trainer.advance(allow_empty=True)
    worker = lab.worker(name="w1", policy=old)
    assert worker.claim(1) == []
    shown = watcher.shown(width)
    assert "too old" in words(shown)
    assert "once they have loaded newer weights" in words(shown)
    assert "weights_stale" in shown


@pytest.mark.parametrize("width", WIDTHS)
def test_the_trainer_is_dead(lab: Lab, watcher: Watcher, width: int):
    trainer, worker = leader(lab), lab.worker(name="w1", lease_s=7200.0)
    trainer.enqueue(tasks(4))
    while attempts := worker.claim(1):
        worker.submit(attempts[0], b"x")
    lab.pass_ms(600_000)
    shown = words(watcher.shown(width))
    assert "the trainer has the rest" in shown
    assert "The trainer has given no sign of life for 10 min" in shown


@pytest.mark.parametrize("width", WIDTHS)
def test_it_is_paused(lab: Lab, watcher: Watcher, width: int):
    trainer = leader(lab)
    trainer.enqueue(tasks(4))
    lab.worker()
    trainer.pause()
    shown = words(watcher.shown(width))
    assert "The run is paused" in shown
    assert f"broker resume {lab.run}" in shown


def test_the_bars_count_how_stale_the_batched_tasks_were(lab: Lab, watcher: Watcher):
    trainer, worker = leader(lab), lab.worker()
    trainer.enqueue(tasks(8))
    early = worker.claim(2)
    for step in range(2):
        for attempt in early if step else worker.claim(2):
            worker.submit(attempt, b"x")
        trainer.next_batch(timeout=5)
        trainer.advance()
    assert watcher.shown()
    assert watcher.timeline.staleness() == {0: 2, 1: 2}
    assert "1 behind" in watcher.shown()


def test_rates_progress_and_the_time_that_is_left(lab: Lab, watcher: Watcher):
    trainer, worker = leader(lab), lab.worker()
    trainer.enqueue(tasks(10))
    watcher.shown()
    for attempt in worker.claim(2):
        worker.submit(attempt, b"x")
    trainer.next_batch(timeout=5)
    trainer.advance()
    lab.pass_ms(10_000)
    shown = watcher.shown()
    assert watcher.history.rate(results) == pytest.approx(0.2)
    assert "12.0/min" in shown
    assert "2 of 10 tasks ended, about 40 s left" in shown
    assert len(watcher.history.course(results, 12)) == 12


def test_a_history_keeps_the_last_minutes_only(lab: Lab, watcher: Watcher):
    stats, history = leader(lab).stats(), History()
    for second in range(5_000):
        history.add(second, stats)
    assert len(history._looks) <= KEEP_S + 2
    history.add(1.0, stats)
    assert len(history._looks) == 1, "a server that went back"


def test_arrows_select_and_enter_shows_what_is_known(lab: Lab, watcher: Watcher):
    leader(lab).enqueue(tasks(4))
    workers = [lab.worker(name=f"w{i}") for i in range(3)]
    (attempt,) = workers[2].claim(1)
    move(watcher.cursor, "enter", 3)
    shown = watcher.shown()
    assert workers[2].sessions[lab.run] in shown, "who holds most is first"
    move(watcher.cursor, "down", 3)
    assert workers[0].sessions[lab.run] in watcher.shown().partition("held longest")[2]
    for _ in range(9):
        move(watcher.cursor, "down", 3)
    assert watcher.cursor.row == 2
    move(watcher.cursor, "tab", 3)
    assert attempt.id in watcher.shown()
    move(watcher.cursor, "escape", 1)
    assert attempt.id not in watcher.shown().partition("last transitions")[0]


@pytest.fixture(scope="module")
def embedded() -> Generator[EmbeddedServer]:
    server = EmbeddedServer(port=0)
    yield server
    server.stop()


def test_what_a_busy_run_logs_between_two_looks_is_passed_over(embedded: EmbeddedServer):
    with Operator(embedded.url) as operator:
        send, timeline = operator.transport.command, Timeline()
        follower = Follower.of_the_last(send, "busy", EVENTS_BEFORE)
        for number in range(PAGE + 9):
            send("XADD", "rb1:{busy}:events", "*", "enqueue", f"t{number}")
        timeline.read(follower, 1)
        assert timeline.has_gap
        assert timeline.transitions[-1].words == f"t{PAGE - 1}"
        send("XADD", "rb1:{busy}:events", "*", "enqueue", "last")
        timeline.read(follower, 1)
        assert [told.words for told in timeline.transitions][-2:] == [f"t{PAGE - 1}", "last"]
        assert (
            Follower.of_the_last(send, "busy", 2).position
            == send("XREVRANGE", "rb1:{busy}:events", "+", "-")[1][0].decode()
        )


def read_until(descriptor: int, text: str, within_s: float = 30.0) -> str:
    """What a terminal shows, until it shows a text."""
    seen, until = "", time.monotonic() + within_s
    while text not in seen:
        ready, _, _ = select.select([descriptor], [], [], max(0.0, until - time.monotonic()))
        assert ready, f"{text!r} was not shown: {seen[-2000:]!r}"
        seen += os.read(descriptor, 65536).decode(errors="replace")
    return seen


@pytest.mark.processes
@pytest.mark.parametrize("argv", [("watch",), ("watch", "math-7b"), ("status", "math-7b", "--watch")], ids=" ".join)
def test_q_ends_it_on_a_terminal(embedded: EmbeddedServer, argv: tuple[str, ...]):
    with Trainer(embedded.url, "math-7b", RunConfig(consumer_batch_size=1)) as trainer, Worker(embedded.url, "math-7b"):
        trainer.enqueue(Task(id=f"t{i}") for i in range(3))
        pid, terminal = pty.fork()
        if not pid:  # the child has the terminal
            environment = {**os.environ, "BROKER_URL": embedded.url, "TERM": "xterm", "COLUMNS": "60", "LINES": "40"}
            os.execve(sys.executable, [sys.executable, "-m", "broker", *argv], environment)  # noqa: S606
        try:
            read_until(terminal, "math-7b")
            if argv == ("watch",):
                os.write(terminal, b"\r")
                read_until(terminal, "last transitions")
                os.write(terminal, b"\x1b")
                read_until(terminal, "enter open")
            os.write(terminal, b"q")
            with suppress(OSError):  # the other end is closed
                while os.read(terminal, 65536):
                    pass
            _, status = os.waitpid(pid, 0)
            assert os.waitstatus_to_exitcode(status) == 0
        finally:
            os.close(terminal)


def test_in_a_pipe_it_prints_text_or_json(embedded: EmbeddedServer):
    with Trainer(embedded.url, "piped", RunConfig(consumer_batch_size=1)) as trainer:
        trainer.enqueue(Task(id="t"))
        for argv, is_right in (
            (("watch", "piped", "--interval", "0.05"), lambda line: line == "run piped"),
            (
                ("watch", "piped", "--interval", "0.05", "--json"),
                lambda line: json.loads(line)["stats"]["run"] == "piped",
            ),
            (("watch", "--interval", "0.05", "--json"), lambda line: json.loads(line)["run"] in {"math-7b", "piped"}),
        ):
            check: Callable[[str], Any] = is_right
            with Child("-m", "broker", *argv, env={"BROKER_URL": embedded.url}) as process:
                assert check(process.read_line())


def test_a_run_that_is_not_there_is_an_error(embedded: EmbeddedServer, monkeypatch: pytest.MonkeyPatch):
    from broker.cli.main import main

    monkeypatch.setenv("BROKER_URL", embedded.url)
    assert main(["watch", "none"]) == 2


def test_json_has_rates_and_who_holds_what(lab: Lab, watcher: Watcher, monkeypatch: pytest.MonkeyPatch):
    leader(lab).enqueue(tasks(1))
    stream = io.StringIO()

    def stop(_seconds: float) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("broker.cli.commands.watch.time.sleep", stop)
    with pytest.raises(KeyboardInterrupt):
        watch_run(watcher.operator, lab.run, 1.0, Output(as_json=True, stdout=stream))
    seen = json.loads(stream.getvalue())
    assert {"stats", "sessions", "held", "results_per_s", "progress", "waste"} <= seen.keys()


def test_escape_goes_from_a_run_back_to_the_list_and_q_quits_from_both(
    lab: Lab, watcher: Watcher, monkeypatch: pytest.MonkeyPatch
):
    stream = io.StringIO()
    console = Console(file=stream, width=60, height=40, force_terminal=True)
    left = iter(("enter", "enter", "escape", "escape", "enter", "quit"))  # details, out of them, out of the run
    seen: list[str] = []

    def key(_seconds: float) -> str:
        seen.append(stream.getvalue())
        return next(left)

    @contextmanager
    def keys() -> Generator[Callable[[float], str]]:
        yield key

    monkeypatch.setattr("broker.cli.keyboard.keys", keys)
    output = Output()
    monkeypatch.setattr(output, "_terminal", lambda: console)
    assert watch.run(Namespace(run=None, url=lab.url, interval=0.5), output) == 0
    assert next(left, None) is None
    assert "esc back" not in seen[0]
    assert all("q quit   esc back" in screen[len(before) :] for before, screen in pairwise(seen[:4]))
    assert "enter open" in seen[4][len(seen[3]) :]
