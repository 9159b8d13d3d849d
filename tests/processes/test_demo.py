"""`broker demo` with its real processes, on a server of its own."""

import os
import signal
from collections.abc import Generator
from pathlib import Path
from typing import Any

import pytest

from broker import Trainer
from broker.demo.options import DemoOptions
from broker.demo.processes import Child as DemoChild
from broker.demo.processes import DemoFailed
from broker.demo.supervisor import run_demo
from broker.errors import NoRun
from broker.operator import Operator
from broker.testing import broker_server
from tests.child import Child, Ended, finished, is_stopped
from tests.waiting import wait_until

pytest.importorskip("gymnasium")
pytestmark = pytest.mark.processes

#: A machine that others use, too, may be ten times slower than an idle one; pytest ends a test after 300 s.
_PATIENCE_S = 280.0


@pytest.fixture
def url() -> Generator[str]:
    with broker_server("embedded") as url:
        yield url


def demo(*words: str) -> Ended:
    return finished("-m", "broker", "demo", *words, within_s=_PATIENCE_S)


def started(url: str, *words: str) -> Child:
    """A process of the demo, which finds the server at the URL."""
    return Child("-m", *words, env={"BROKER_URL": url})


def processes_of(run: str) -> dict[int, str]:
    """The processes whose command line mentions a run."""
    found: dict[int, str] = {}
    for path in Path("/proc").glob("[0-9]*"):
        try:
            words = (path / "cmdline").read_bytes().decode().split("\0")
        except OSError:  # it has ended
            continue
        if run in words:
            found[int(path.name)] = " ".join(words)
    return found


def children(run: str, module: str) -> list[int]:
    return [pid for pid, words in processes_of(run).items() if module in words]


def version_of(url: str, run: str, workers: int = 0) -> int:
    """The version of a run, -1 before it is there and has so many workers."""
    with Operator(url) as operator:
        try:
            stats = operator.stats(run)
        except NoRun:
            return -1
        return stats.version if stats.sessions >= workers else -1


def assert_guarantees(summary: dict[str, Any]) -> None:
    assert summary["duplicates"] == 0
    assert summary["max_staleness_seen"] <= summary["max_staleness"]
    assert summary["trained_exactly_once"] is True
    assert summary["lost"] == 0
    assert summary["max_capacity_seen"] <= summary["max_capacity"]


def test_short_demo_prints_its_summary_as_one_object() -> None:
    done = demo("--steps", "3", "--workers", "2", "--samples", "8", "--max-staleness", "1", "--json")
    assert done.code == 0, done.err
    summary = done.json
    assert_guarantees(summary)
    assert summary["steps"] == 3
    assert summary["consumed"] == 3 * 8
    assert summary["workers_killed"] == 0
    assert "valkey" in summary["server"]


def test_people_get_a_summary_and_lines_of_progress() -> None:
    done = demo("--steps", "2", "--workers", "1")
    assert done.code == 0, done.err
    assert "kept, by the event log" in done.out
    assert "step 2/2" in done.err


@pytest.mark.slow
@pytest.mark.chaos
def test_it_learns_while_workers_and_trainer_are_killed() -> None:
    done = demo("--workers", "3", "--steps", "60", "--chaos", "all", "--json", "--seed", "1")
    assert done.code == 0, done.err
    summary = done.json
    assert_guarantees(summary)
    assert summary["workers_killed"] > 0
    assert summary["trainer_kills"] >= 2
    assert summary["requeued"] > 0
    assert summary["steps"] == 60
    assert summary["return_last"] >= 5 * summary["return_first"]


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_interrupted_demo_leaves_no_process_and_nothing_held(url: str, run: str, number: int, code: int) -> None:
    """Given a demo at work, when it is told to end, then it tells how far it came, and all children are gone."""
    with started(url, "broker", "demo", "--url", url, "--run", run, "--steps", "1000", "--json") as process:
        there = wait_until(lambda: version_of(url, run, workers=3) + 1, "all have joined", 60)
        wait_until(lambda: version_of(url, run) > there, "two steps are done", 60)
        process.send(number)
        ended = process.end()
    assert ended.code == code, ended.err
    summary = ended.json
    assert summary["steps"] >= 2
    assert summary["duplicates"] == 0
    assert processes_of(run) == {}
    with Operator(url) as operator:
        assert operator.stats(run).sessions == 0
        operator.purge(run)


def test_children_end_with_a_supervisor_that_is_killed(url: str, run: str, tmp_path: Path) -> None:
    """Given a demo with one worker frozen, when its supervisor is killed, then no child is left behind."""
    words = ("-m", "broker", "demo", "--url", url, "--run", run)
    with Child(*words, env={"TMPDIR": str(tmp_path)}) as process:
        workers = wait_until(lambda: children(run, "broker.demo.worker"), "there are workers", 60)
        os.kill(workers[0], signal.SIGSTOP)
        # The kernel wakes those that are stopped when their group becomes an orphan, not those that stop afterwards.
        wait_until(lambda: is_stopped(workers[0]), "the worker has stopped")
        process.kill()
    wait_until(lambda: not processes_of(run), "its children are gone", 60)


@pytest.mark.parametrize("module", ["broker.demo.worker", "broker.demo.trainer"])
def test_child_that_dies_ends_the_demo(url: str, run: str, module: str) -> None:
    with started(url, "broker", "demo", "--url", url, "--run", run, "--json") as process:
        wait_until(lambda: version_of(url, run) >= 1, "a step is done", 60)
        os.kill(children(run, module)[0], signal.SIGKILL)
        ended = process.end()
    assert ended.code == 2
    assert ended.out == ""
    assert "was ended by signal 9" in ended.err
    assert "Traceback" not in ended.err
    assert processes_of(run) == {}


def test_half_a_line_of_a_killed_child_is_not_heard(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "talker.py").write_text("import sys; print('whole\\nha', end='', flush=True); sys.stdin.read()")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    child = DemoChild("talker", "talker", [], url="")
    said = wait_until(child.lines, "it has said something")
    assert said + child.end() == ["whole"]


def test_what_a_failing_child_says_is_shown(url: str, run: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Given workers that cannot be imported, when the demo starts, then their own words are in its error."""
    monkeypatch.setattr("broker.demo.supervisor.WORKER", "broker.demo.no_such_module")
    with pytest.raises(DemoFailed, match=r"No module named broker\.demo\.no_such_module"):
        run_demo(DemoOptions(url=url, run=run, json=True))
    assert processes_of(run) == {}


def test_run_that_exists_is_refused_and_left_alone(url: str, run: str) -> None:
    assert run_demo(DemoOptions(steps=1, workers=1, url=url, run=run, json=True)).steps == 1
    with pytest.raises(DemoFailed, match="exists already"):
        run_demo(DemoOptions(steps=3, workers=1, url=url, run=run, json=True))
    assert version_of(url, run) == 1


def test_server_that_is_not_there_is_named_without_a_traceback() -> None:
    done = demo("--url", "redis://127.0.0.1:1/0")
    assert done.code == 2
    assert "127.0.0.1:1" in done.err
    assert "Traceback" not in done.err


def test_summary_agrees_with_the_server(url: str, run: str) -> None:
    summary = run_demo(DemoOptions(steps=4, workers=2, url=url, run=run, json=True))
    assert summary.violations == []
    with Trainer(url, run, attach=True) as trainer:
        stats = trainer.stats()
        assert trainer.audit().ok
    assert (stats.version, stats.consumed) == (summary.steps, summary.consumed) == (4, 64)
    assert (stats.running, stats.ready, stats.pending, stats.sessions) == (0, 0, 0, 0)
    assert stats.totals.get("late", 0) == summary.late_refused


def test_trainer_and_workers_run_alone_in_any_order(url: str, run: str) -> None:
    """Given a worker that was started before its run exists, when a trainer comes, then both work; no supervisor."""
    trainer = ("broker.demo.trainer", "--run", run, "--steps", "3")
    with started(url, "broker.demo.worker", "--run", run) as working, started(url, *trainer) as training:
        ended = training.end()
        assert ended.code == 0, ended.err
        assert [line["step"] for line in ended.json_lines] == [0, 1, 2]
        working.send(signal.SIGTERM)
        ended = working.end()
        assert ended.code == 143, ended.err
    with Operator(url) as operator:
        assert operator.stats(run).sessions == 0


def test_trainer_goes_on_from_its_checkpoint(url: str, run: str, tmp_path: Path) -> None:
    """Given a trainer that ended at version 5, when another is started for 8 steps, then it does the last three."""
    told: list[int] = []
    with started(url, "broker.demo.worker", "--run", run):
        for steps in ("5", "8"):
            words = ("broker.demo.trainer", "--run", run, "--steps", steps, "--checkpoints", str(tmp_path))
            with started(url, *words) as training:
                ended = training.end()
            assert ended.code == 0, ended.err
            told += [line["step"] for line in ended.json_lines]
    assert told == list(range(8))


def test_trainer_without_the_weights_of_its_run_refuses(url: str, run: str) -> None:
    assert run_demo(DemoOptions(steps=1, workers=1, url=url, run=run, json=True)).steps == 1
    with started(url, "broker.demo.trainer", "--run", run) as training:
        ended = training.end()
    assert ended.code == 1
    assert "--checkpoints" in ended.err
    assert "Traceback" not in ended.err
