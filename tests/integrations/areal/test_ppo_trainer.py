"""AReaL's real `PPOTrainer`, on a CPU with a tiny model and a fake engine, is killed at random and recovers.

Where `BROKER_TEST_AREAL` names checkouts of AReaL (see `test_own_suites.py`). `BROKER_TEST_KILLS` says how often it is
killed.
"""

from __future__ import annotations

import os
import random
import time
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

import pytest

from broker.errors import NoRun
from broker.operator import Operator
from tests.integrations.areal.lives import Lives
from tests.integrations.areal.test_own_suites import checkouts
from tests.threads import InThread

#: As in `ppo_child.py`.
B, C = 4, 6
KILLS = int(os.environ.get("BROKER_TEST_KILLS", "2"))
STEPS, S = 8 * (KILLS + 1), 1
#: What AReaL says where it was killed in the middle of writing its own files: it then starts over from version 0.
DAMAGED = "Failed to load recover info"


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
    words = ("ppo_child", url, "ppo", str(tmp_path), str(STEPS), str(S))
    with bound_watched(url) as exceeded, Lives(checkout, *words) as lives:
        for number in range(KILLS + 1):
            life = lives.begin()
            life.wait_for("ready")
            (ready,) = life.said("ready")
            # The checkpoint of a step may be missing that was being written.
            expected = {trained[-1], trained[-1] + 1} if trained else {0}
            assert ready["ready"] in expected or (ready["ready"] == 0 and DAMAGED in life.log)
            assert ready["capacity"] <= min(C, (S + 1) * B)
            if number < KILLS:
                life.wait_for("step", random.randint(1, 7))
                time.sleep(random.uniform(0, 0.3))
            else:
                life.wait_for("done")
            life.kill()
            assert life.steps == list(range(ready["ready"], ready["ready"] + len(life.steps)))
            assert all(line["size"] == B for line in life.said("step"))
            trained = life.steps
            assert "counts its rollouts in run ppo" in life.log
            assert "role rollout counts in run ppo" in life.log
            assert "role eval-rollout evaluates" in life.log
        assert trained[-1] == STEPS - 1
    assert not exceeded, exceeded[:3]
