"""Hundreds of random walks with checkpoints, deaths and recoveries, each judged by a ledger of its own."""

from __future__ import annotations

import os
import random
import secrets
import shutil
from pathlib import Path

from broker.operator import Operator
from tests.recovery.walker import Walk
from tests.recovery.weights_walker import WeightsWalk
from tests.servers import ServerUnderTest

#: Walks on a real server of each kind, and on fakeredis, which is slower.
WALKS, FAKE_WALKS = 100, 8
#: Walks with weights, which are files, on a real server of each kind.
WEIGHTS_WALKS = 10


def test_random_walks_end_with_each_task_trained_once(server: ServerUnderTest, tmp_path: Path):
    """One walk again: BROKER_TEST_SEED=<seed> pytest -k random_walks."""
    given = os.environ.get("BROKER_TEST_SEED")
    seeds = (
        [int(given)]
        if given
        else random.SystemRandom().sample(range(10**9), WALKS if server.kind.is_real else FAKE_WALKS)
    )
    for seed in seeds:
        _walk(server, seed, tmp_path / str(seed))


def test_workers_that_load_weights_never_say_another_version_than_they_generated_with(
    server: ServerUnderTest, tmp_path: Path
):
    """Also while trainers are killed and recover. One walk again: BROKER_TEST_SEED=<seed> pytest -k load_weights."""
    given = os.environ.get("BROKER_TEST_SEED")
    many = WEIGHTS_WALKS if server.kind.is_real else 1
    for seed in [int(given)] if given else random.SystemRandom().sample(range(10**9), many):
        _walk(server, seed, tmp_path / str(seed), WeightsWalk)


def _walk(server: ServerUnderTest, seed: int, folder: Path, kind: type[Walk] = Walk) -> None:
    folder.mkdir()
    run = f"walk-{secrets.token_hex(4)}"
    walk = kind(server.unix_url, run, seed, folder)
    try:
        walk.walk()
    except BaseException:
        print(f"\nBROKER_TEST_SEED={seed} failed after: {' '.join(walk.log)}")  # noqa: T201 -- what makes it fail again
        raise
    finally:
        walk.close()
        with Operator(server.url) as operator:
            operator.purge(run)
        shutil.rmtree(folder)
