"""`broker demo` with its real processes, on a server of its own."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from broker import Trainer
from broker.demo.options import DemoOptions
from broker.demo.processes import DemoFailed
from broker.demo.supervisor import run_demo
from broker.errors import NoRun
from broker.operator import Operator
from broker.testing import broker_server
from tests.waiting import wait_until

pytest.importorskip("gymnasium")
pytestmark = pytest.mark.processes

#: A machine that others use, too, may be ten times slower than an idle one.
_PATIENCE_S = 400.0


@pytest.fixture
def url() -> Generator[str]:
    with broker_server("embedded") as url:
        yield url


def command(*words: str) -> list[str]:
    return [sys.executable, "-m", "broker", "demo", *words]


def demo(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command(*words), capture_output=True, text=True, timeout=_PATIENCE_S, check=False)


@contextmanager
def started(words: list[str], **environment: str) -> Generator[subprocess.Popen[str]]:
    """A process, killed at the end if it is still there."""
    process = subprocess.Popen(
        words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env={**os.environ, **environment}
    )
    with process:
        try:
            yield process
        finally:
            process.kill()


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


def is_stopped(pid: int) -> bool:
    """Whether a process has stopped, by SIGSTOP: all its threads."""
    states = [path.read_text().rpartition(")")[2].split()[0] for path in Path(f"/proc/{pid}/task").glob("*/stat")]
    return set(states) == {"T"}


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


def summary_of(text: str) -> dict[str, Any]:
    (line,) = text.splitlines()
    return json.loads(line)


def steps_told(text: str) -> list[int]:
    """The steps that a trainer has told of, a line of JSON for each."""
    return [json.loads(line)["step"] for line in text.splitlines()]


def assert_guarantees(summary: dict[str, Any]) -> None:
    assert summary["duplicates"] == 0
    assert summary["max_staleness_seen"] <= summary["max_staleness"]
    assert summary["trained_exactly_once"] is True
    assert summary["lost"] == 0
    assert summary["max_capacity_seen"] <= summary["max_capacity"]


def test_short_demo_prints_its_summary_as_one_object() -> None:
    done = demo("--steps", "3", "--workers", "2", "--samples", "8", "--max-staleness", "1", "--json")
    assert done.returncode == 0, done.stderr
    summary = summary_of(done.stdout)
    assert_guarantees(summary)
    assert summary["steps"] == 3
    assert summary["consumed"] == 3 * 8
    assert summary["workers_killed"] == 0
    assert "valkey" in summary["server"]


def test_people_get_a_summary_and_lines_of_progress() -> None:
    done = demo("--steps", "2", "--workers", "1")
    assert done.returncode == 0, done.stderr
    assert "kept, by the event log" in done.stdout
    assert "step 2/2" in done.stderr


@pytest.mark.slow
@pytest.mark.chaos
def test_it_learns_while_workers_are_killed() -> None:
    done = demo("--workers", "3", "--steps", "60", "--chaos", "--json")
    assert done.returncode == 0, done.stderr
    summary = summary_of(done.stdout)
    assert_guarantees(summary)
    assert summary["workers_killed"] > 0
    assert summary["requeued"] > 0
    assert summary["return_last"] >= 5 * summary["return_first"]
    assert summary["seconds"] < 180


@pytest.mark.slow
@pytest.mark.chaos
def test_it_learns_while_workers_and_trainer_are_killed() -> None:
    done = demo("--workers", "3", "--steps", "60", "--chaos", "all", "--json", "--seed", "1")
    assert done.returncode == 0, done.stderr
    summary = summary_of(done.stdout)
    assert_guarantees(summary)
    assert summary["workers_killed"] > 0
    assert summary["trainer_kills"] >= 2
    assert summary["steps"] == 60
    assert summary["return_last"] >= 5 * summary["return_first"]


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_interrupted_demo_leaves_no_process_and_nothing_held(url: str, run: str, number: int, code: int) -> None:
    """Given a demo at work, when it is told to end, then it tells how far it came, and all children are gone."""
    with started(command("--url", url, "--run", run, "--steps", "1000", "--json")) as process:
        # Two steps after all have joined: a session whose worker was told to end before it heard of it is not left.
        there = wait_until(lambda: version_of(url, run, workers=3) + 1, "all have joined", 60)
        wait_until(lambda: version_of(url, run) > there, "two steps are done", 60)
        process.send_signal(number)
        out, err = process.communicate(timeout=30)
    assert process.returncode == code, err
    summary = summary_of(out)
    assert summary["steps"] >= 2
    assert summary["duplicates"] == 0
    assert processes_of(run) == {}
    with Operator(url) as operator:
        assert operator.stats(run).sessions == 0
        operator.purge(run)


def test_children_end_with_a_supervisor_that_is_killed(url: str, run: str, tmp_path: Path) -> None:
    """Given a demo with one worker frozen, when its supervisor is killed, then no child is left behind."""
    with started(command("--url", url, "--run", run), TMPDIR=str(tmp_path)) as process:
        workers = wait_until(lambda: children(run, "broker.demo.worker"), "there are workers", 60)
        os.kill(workers[0], signal.SIGSTOP)
        # The kernel wakes those that are stopped when their group becomes an orphan, not those that stop afterwards.
        wait_until(lambda: is_stopped(workers[0]), "the worker has stopped")
        process.kill()
        process.communicate()
    wait_until(lambda: not processes_of(run), "its children are gone", 60)


@pytest.mark.parametrize("module", ["broker.demo.worker", "broker.demo.trainer"])
def test_child_that_dies_ends_the_demo(url: str, run: str, module: str) -> None:
    with started(command("--url", url, "--run", run, "--json")) as process:
        wait_until(lambda: version_of(url, run) >= 1, "a step is done", 60)
        os.kill(children(run, module)[0], signal.SIGKILL)
        out, err = process.communicate(timeout=30)
    assert process.returncode == 2
    assert out == ""
    assert "was ended by signal 9" in err
    assert "Traceback" not in err
    assert processes_of(run) == {}


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
    assert done.returncode == 2
    assert "127.0.0.1:1" in done.stderr
    assert "Traceback" not in done.stderr


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
    worker = [sys.executable, "-m", "broker.demo.worker", "--run", run]
    trainer = [sys.executable, "-m", "broker.demo.trainer", "--run", run, "--steps", "3"]
    with started(worker, BROKER_URL=url) as working, started(trainer, BROKER_URL=url) as training:
        out, err = training.communicate(timeout=60)
        assert training.returncode == 0, err
        assert steps_told(out) == [0, 1, 2]
        working.terminate()
        _, err = working.communicate(timeout=30)
        assert working.returncode == 143, err
    with Operator(url) as operator:
        assert operator.stats(run).sessions == 0


def test_trainer_goes_on_from_its_checkpoint(url: str, run: str, tmp_path: Path) -> None:
    """Given a trainer that ended at version 5, when another is started for 8 steps, then it does the last three."""
    words = [sys.executable, "-m", "broker.demo.trainer", "--run", run, "--steps"]
    worker = [sys.executable, "-m", "broker.demo.worker", "--run", run]
    told: list[int] = []
    with started(worker, BROKER_URL=url):
        for steps in ("5", "8"):
            with started([*words, steps, "--checkpoints", str(tmp_path)], BROKER_URL=url) as training:
                out, err = training.communicate(timeout=60)
            assert training.returncode == 0, err
            told += steps_told(out)
    assert told == list(range(8))


def test_trainer_without_the_weights_of_its_run_refuses(url: str, run: str) -> None:
    assert run_demo(DemoOptions(steps=1, workers=1, url=url, run=run, json=True)).steps == 1
    words = [sys.executable, "-m", "broker.demo.trainer", "--run", run]
    with started(words, BROKER_URL=url) as training:
        _, err = training.communicate(timeout=60)
    assert training.returncode == 1
    assert "--checkpoints" in err
    assert "Traceback" not in err
