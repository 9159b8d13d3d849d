"""A worker of runs on several nodes of a cluster, of which one is away, and its slots alone."""

import asyncio
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from typing import Any

import pytest

from broker import Attempt, RunConfig, Submitted, Task, Trainer, Worker, aio
from broker.clients.operator import Operator
from broker.protocol import keys
from broker.worker.lanes import NOT_ANSWERING_AGAIN_S
from tests.servers import ServerKind, ServerUnderTest, cluster, redis_kinds

#: As long as a test can wait for three of it, and as a slow machine can renew it in time.
LEASE_MS = 4000


@pytest.fixture(params=redis_kinds(), ids=str)
def redis(request: pytest.FixtureRequest) -> ServerKind:
    return request.param


@contextmanager
def three_nodes(kind: ServerKind) -> Generator[list[ServerUnderTest]]:
    """A cluster that serves the slots that are there while others are not."""
    with cluster(kind, primaries=3, more={"cluster-require-full-coverage": "no"}) as members:
        yield members


def run_at(members: list[ServerUnderTest], node: int) -> str:
    """The name of a run whose keys are on that node of three."""
    names = [f"r{i}" for i in range(50)]
    slots = {name: int(members[0].command("CLUSTER", "KEYSLOT", keys.state(name))) for name in names}
    return next(name for name in names if slots[name] // 5462 == node)


@pytest.mark.slow
@pytest.mark.parametrize("flavour", ["sync", "aio"])
def test_a_node_that_is_away_takes_from_a_worker_only_the_runs_that_are_there(redis: ServerKind, flavour: str):
    """The preferred run's node is frozen: the other run is served, its lease is renewed, and nothing is lost."""
    with three_nodes(redis) as members:
        url = f"redis+cluster://127.0.0.1:{members[2].port}"
        away, there = (run_at(members, node) for node in (0, 1))
        for name in (away, there):
            with Trainer(url, name, RunConfig(consumer_batch_size=9, lease_ms=6000)) as trainer:
                trainer.enqueue(Task(id=f"{name}-{i}") for i in range(9))
        options: Any = {"retry_for_s": 2.0, "timeout_s": 1.0}

        def served(claim: Callable[[], Attempt], submit: Callable[[Attempt], Submitted]) -> list[str]:
            """The runs of what is claimed before, while and after the node is away."""
            first = claim()
            members[0].freeze()
            try:
                meanwhile = [claim() for _ in range(3)]
                assert all(submit(attempt).accepted for attempt in meanwhile)
            finally:
                members[0].thaw()
            time.sleep(NOT_ANSWERING_AGAIN_S)  # then it is looked for before the other
            last = claim()
            assert submit(last).accepted
            return [attempt.run for attempt in (first, *meanwhile, last)]

        if flavour == "sync":
            with Worker(url, [away, there], **options) as worker:
                runs = served(lambda: worker.claim(1, timeout=30)[0], lambda attempt: worker.submit(attempt, b"x"))
        else:
            with asyncio.Runner() as runner:
                awaited = runner.run(aio.Worker(url, [away, there], **options).open())
                runs = served(
                    lambda: runner.run(awaited.claim(1, timeout=30))[0],
                    lambda attempt: runner.run(awaited.submit(attempt, b"x")),
                )
                runner.run(awaited.close())
        assert runs == [away, there, there, there, away]


@pytest.mark.slow
@pytest.mark.parametrize("how", ["frozen", "killed", "without its slots"])
def test_a_node_that_is_away_ends_no_lease_of_the_other_runs(redis: ServerKind, how: str):
    """The worker holds an attempt of each run, and is patient for longer than a lease."""
    with three_nodes(redis) as members:
        url = f"redis+cluster://127.0.0.1:{members[2].port}"
        away, there = (run_at(members, node) for node in (0, 1))
        for name in (away, there):
            with Trainer(url, name, RunConfig(consumer_batch_size=9, lease_ms=LEASE_MS)) as trainer:
                trainer.enqueue([Task(id="a")])
        with Operator(url) as operator, Worker(url, [away, there], timeout_s=1.0) as worker:
            attempts = {attempt.run: attempt for attempt in worker.claim(2, timeout=30)}
            if how == "frozen":
                members[0].freeze()
            elif how == "killed":
                members[0].kill()
            else:
                for member in members:
                    member.command("CLUSTER", "DELSLOTS", *range(5462))
            try:
                until = time.monotonic() + 3 * LEASE_MS / 1000
                while time.monotonic() < until:
                    operator.requeue(there)  # the lease clock goes on
                    assert not attempts[there].cancelled
                    time.sleep(0.1)
                assert worker.submit(attempts[there], b"x").accepted
            finally:
                if how == "frozen":
                    members[0].thaw()
            worker.stop()
