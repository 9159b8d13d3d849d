"""AReaL's real `PPOTrainer` gets its rollouts from workers that pull them, and workers and trainers are killed.

Where `BROKER_TEST_AREAL` names checkouts of AReaL (see `test_own_suites.py`). `BROKER_TEST_KILLS` says how often the
trainer is killed.
"""

from __future__ import annotations

import json
import os
import random
import signal
import time
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from broker.operator import Operator
from tests.child import ROOT, Child
from tests.integrations.areal.lives import PATIENCE_S, Life, Lives
from tests.integrations.areal.test_own_suites import checkouts

pytestmark = [pytest.mark.slow, pytest.mark.processes]

#: As in `ppo_child.py`.
B, C = 4, 6
S = 1
KILLS = int(os.environ.get("BROKER_TEST_KILLS", "2"))


class Areal(Child):
    """A process in AReaL's environment, which says lines of JSON."""

    def __init__(self, checkout: Path, *words: str) -> None:
        super().__init__(
            "-m",
            *words,
            python=checkout / ".venv/bin/python",
            cwd=checkout,
            env={"PYTHONPATH": f"{ROOT}:{Path(__file__).parent}", "HF_HUB_OFFLINE": "1"},
        )

    def said(self, word: str) -> list[dict[str, Any]]:
        lines = [json.loads(line[1:]) for line in self.out if line.startswith("@")]
        return [line for line in lines if word in line]

    def wait_for(self, word: str, n: int = 1) -> None:
        self.wait_until(lambda: len(self.said(word)) >= n, f"{n} times {word}", PATIENCE_S)


def kill(training: Life, dumping: Path) -> None:
    """Kills it at any time but while AReaL writes its own files: it does not write these whole or not at all."""
    while not training.said("dead"):
        training.send(signal.SIGSTOP)
        if not dumping.exists():
            break
        training.send(signal.SIGCONT)
        time.sleep(0.01)
    training.kill()


def trainer(checkout: Path, url: str, folder: Path, steps: int, *, own: bool = False) -> Areal:
    return Areal(checkout, "pull_child", url, "pull", str(folder), str(steps), str(S), str(int(own)))


def worker(checkout: Path, url: str) -> Areal:
    return Areal(checkout, "pull_worker_child", url, "pull")


def check_history(steps: Sequence[dict[str, Any]], n: int) -> None:
    """Each step has a whole batch that is fresh enough, and no prompt is trained twice."""
    assert [line["step"] for line in steps] == list(range(n))
    trained = [x for line in steps for x in line["x"]]
    assert len(trained) == n * B
    assert len(set(trained)) == len(trained)
    assert all(x % 11 != 10 for x in trained)  # the workflow rejects these
    assert all(line["same"] for line in steps)
    assert all(line["step"] - line["oldest"] <= S for line in steps)


def check_nothing_is_lost(operator: Operator) -> None:
    """Every prompt that the loader brought is somewhere."""
    stats = operator.stats("pull")
    held = stats.consumed + stats.batched + stats.ready + stats.running + stats.pending + stats.delayed
    assert held + stats.rejected + stats.dead == stats.totals["enqueued"]
    assert not stats.dead
    assert operator.audit("pull").ok


@pytest.mark.parametrize("checkout", checkouts())
def test_a_killed_worker_costs_no_prompt_and_one_that_joins_late_has_the_newest_weights(
    checkout: Path, url: str, tmp_path: Path
) -> None:
    with ExitStack() as stack, Operator(url) as operator:
        first, second = (stack.enter_context(worker(checkout, url)) for _ in range(2))
        second.wait_for("imported")
        training = stack.enter_context(trainer(checkout, url, tmp_path, 60))
        first.tell("join")
        training.wait_for("step", 2)
        second.tell("join")
        second.wait_for("loaded")
        late = second.said("loaded")
        at = training.said("step")[-1]["step"]
        first.kill()  # with what it holds
        training.wait_for("done")
        check_history(training.said("step"), 60)
        check_nothing_is_lost(operator)
        assert late[0]["loaded"] >= 2  # not all of them, one after the other
        assert all(line["loaded"] == line["content"] for line in first.said("loaded") + second.said("loaded"))
        assert training.said("step")[-1]["pids"] == [second.pid]
        assert first.pid in {pid for line in training.said("step") for pid in line["pids"]}
        assert at < 59


@pytest.mark.parametrize("checkout", checkouts())
def test_a_killed_trainer_uses_what_was_finished_and_trains_each_prompt_once(
    checkout: Path, url: str, tmp_path: Path
) -> None:
    steps = 8 * (KILLS + 1)
    history: dict[int, dict[str, Any]] = {}
    words = ("pull_child", url, "pull", str(tmp_path), str(steps), str(S), "0")
    with worker(checkout, url) as beside, Lives(checkout, *words) as lives, Operator(url) as operator:
        beside.tell("join")
        for number in range(KILLS + 1):
            life = lives.begin()
            life.wait_for("ready")
            begins = life.said("ready")[0]["ready"]
            assert begins in ({len(history) - 1, len(history)} if history else {0})
            if number < KILLS:
                life.wait_for("step", random.randint(1, 7))
                time.sleep(random.uniform(0, 0.3))
            else:
                life.wait_for("done")
            kill(life, tmp_path / "dumping")
            history = {step: line for step, line in history.items() if step < begins}
            history |= {line["step"]: line for line in life.said("step")}
            if number < KILLS:  # the worker goes on meanwhile
                stats = operator.stats("pull")
                full = (S + stats.version + 1) * B
                deadline = time.monotonic() + 60
                while (now := operator.stats("pull")).accepted < full and now.running:
                    assert time.monotonic() < deadline, now
                    time.sleep(0.05)
                assert now.totals["results"] >= stats.totals["results"]
        check_history([history[step] for step in sorted(history)], steps)
        check_nothing_is_lost(operator)


@pytest.mark.parametrize("checkout", checkouts())
def test_the_workers_that_the_controller_made_pull_too(checkout: Path, url: str, tmp_path: Path) -> None:
    with trainer(checkout, url, tmp_path, 8, own=True) as training, Operator(url) as operator:
        training.wait_for("done")
        check_history(training.said("step"), 8)
        check_nothing_is_lost(operator)
        assert "run pull has the rollouts, and workers pull them" in "".join(training.out)
