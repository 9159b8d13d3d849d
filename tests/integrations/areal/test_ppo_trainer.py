"""AReaL's real `PPOTrainer`, on a CPU with a tiny model and a fake engine, is killed at random and recovers.

Where `BROKER_TEST_AREAL` names checkouts of AReaL (see `test_own_suites.py`). `BROKER_TEST_KILLS` says how often it is
killed.
"""

from __future__ import annotations

import json
import os
import random
import time
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from broker.errors import NoRun
from broker.operator import Operator
from tests.child import ROOT, Child
from tests.integrations.areal.test_own_suites import checkouts
from tests.threads import InThread

#: As in `ppo_child.py`.
B, C = 4, 6
KILLS = int(os.environ.get("BROKER_TEST_KILLS", "2"))
STEPS, S = 8 * (KILLS + 1), 1
#: What AReaL says where it was killed in the middle of writing its own files: it then starts over from version 0.
DAMAGED = "Failed to load recover info"
#: AReaL alone takes a minute to import on a busy machine.
PATIENCE_S = 400.0


class Trainer(Child):
    """One life of the training."""

    def __init__(self, checkout: Path, url: str, folder: Path) -> None:
        super().__init__(
            *("-m", "ppo_child", url, "ppo", folder, str(STEPS), str(S)),
            python=checkout / ".venv/bin/python",
            cwd=checkout,
            env={"PYTHONPATH": f"{ROOT}:{Path(__file__).parent}", "HF_HUB_OFFLINE": "1"},
        )

    def said(self, word: str) -> list[dict[str, Any]]:
        """The lines that have a word; AReaL's own lines are between them."""
        lines = [json.loads(line[1:]) for line in self.out if line.startswith("@")]
        return [line for line in lines if word in line]

    @property
    def steps(self) -> list[int]:
        return [line["step"] for line in self.said("step")]


@contextmanager
def bound_watched(url: str) -> Generator[list[str]]:
    """Looks at the run all the time; what exceeds the bound is in the list."""
    exceeded: list[str] = []
    going = True

    def look() -> None:
        with Operator(url) as operator:
            while going:
                time.sleep(0.02)
                try:
                    stats = operator.stats("ppo")
                except NoRun:
                    continue
                if stats.running > C or stats.accepted + stats.running > (S + stats.version + 1) * B:
                    exceeded.append(repr(stats))

    looking = InThread(look)
    try:
        yield exceeded
    finally:
        going = False
        looking.result()


@pytest.mark.slow
@pytest.mark.processes
@pytest.mark.parametrize("checkout", checkouts())
def test_a_trainer_that_is_killed_at_random_goes_on_from_its_checkpoint_within_the_bound(
    checkout: Path, url: str, tmp_path: Path
) -> None:
    trained: list[int] = []
    with bound_watched(url) as exceeded:
        for life in range(KILLS + 1):
            with Trainer(checkout, url, tmp_path) as trainer:
                trainer.wait_until(lambda t=trainer: t.said("ready"), "it is ready", PATIENCE_S)
                (ready,) = trainer.said("ready")
                # The checkpoint of a step may be missing that was being written.
                expected = {trained[-1], trained[-1] + 1} if trained else {0}
                assert ready["ready"] in expected or (ready["ready"] == 0 and DAMAGED in "".join(trainer.out))
                assert ready["capacity"] <= min(C, (S + 1) * B)
                if life < KILLS:
                    n = random.randint(1, 7)
                    trainer.wait_until(lambda t=trainer, n=n: len(t.steps) >= n, f"{n} steps are trained", PATIENCE_S)
                    time.sleep(random.uniform(0, 0.3))
                else:
                    trainer.wait_until(lambda t=trainer: t.said("done"), "it has ended", PATIENCE_S)
                trainer.kill()
                assert trainer.steps == list(range(ready["ready"], ready["ready"] + len(trainer.steps)))
                assert all(line["size"] == B for line in trainer.said("step"))
                trained = trainer.steps
                log = "".join(trainer.out)
                assert "counts its rollouts in run ppo" in log
                assert "role rollout counts in run ppo" in log
                assert "role eval-rollout evaluates" in log
        assert trained[-1] == STEPS - 1
    assert not exceeded, exceeded[:3]
