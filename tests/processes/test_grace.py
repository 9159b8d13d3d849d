"""SIGTERM with a grace: what is held is finished, nothing more is claimed, and the rest is given back."""

from __future__ import annotations

import asyncio
import signal
import time
from typing import Any

import pytest

from broker import Worker, aio
from broker.errors import BadArgument
from tests.conformance.lab import Lab, tasks
from tests.processes.actors import Actor
from tests.waiting import wait_until

pytestmark = pytest.mark.processes

WAYS = ["claim", "loop", "run", "aio", "aio loop"]
#: Exit codes after SIGTERM: in `broker.aio` its end is that of `run` or of the loop.
CODES = {"claim": 143, "loop": 143, "run": 143, "aio": 0, "aio loop": 0}


@pytest.mark.parametrize("way", WAYS)
def test_what_is_held_is_finished_and_nothing_more_is_claimed(live: Lab, way: str) -> None:
    trainer = live.trainer(consumer_batch_size=8, max_staleness=9, max_concurrent_rollouts=99, lease_ms=3_600_000)
    trainer.enqueue(tasks(6))
    held = 2 if way in {"run", "aio"} else 1
    with Actor("finish", live.url, live.run, way=way, grace_s=600) as worker:
        worker.wait_for("working", held)
        worker.send(signal.SIGTERM)
        assert not worker.has_ended(0.5), "it finishes what it holds"
        assert trainer.stats().running == held
        worker.tell("go")
        assert worker.end().code == CODES[way], worker.said
        assert len(worker.heard("working")) == held
        assert bool(worker.heard("after the loop")) == (way in {"loop", "run", "aio", "aio loop"})
    stats = trainer.stats()
    assert (stats.ready, stats.running, stats.pending, stats.sessions) == (held, 0, 6 - held, 0)


@pytest.mark.parametrize("ending", ["time", "signal"])
@pytest.mark.parametrize("way", WAYS)
def test_what_is_not_finished_is_given_back_when_the_grace_is_over_or_at_a_second_signal(
    live: Lab, way: str, ending: str
) -> None:
    trainer = live.trainer(consumer_batch_size=8, max_staleness=9, max_concurrent_rollouts=99, lease_ms=3_600_000)
    trainer.enqueue(tasks(6))
    held = 2 if way in {"run", "aio"} else 1
    with Actor("finish", live.url, live.run, way=way, grace_s=1 if ending == "time" else 600) as worker:
        worker.wait_for("working", held)
        worker.send(signal.SIGTERM)
        assert not worker.has_ended(0.3)
        if ending == "signal":
            worker.send(signal.SIGTERM)
        wait_until(worker.has_ended, "it ends without being told to go on")
        assert worker.end().code == (143 if way == "aio loop" else CODES[way]), worker.said
        assert ("(grace_s) is given back" in "".join(worker.err)) == (ending == "time")
    stats = trainer.stats()
    assert (stats.ready, stats.running, stats.pending, stats.sessions) == (0, 0, 6, 0)
    assert [attempt.tries for attempt in live.worker().claim(2)] == [0, 0]


@pytest.mark.parametrize("way", WAYS)
def test_a_worker_that_holds_nothing_ends_at_once(live: Lab, way: str) -> None:
    trainer = live.trainer()
    with Actor("finish", live.url, live.run, way=way, grace_s=600) as worker:
        wait_until(lambda: trainer.stats().sessions == 1, "it is there")
        time.sleep(0.3)  # it waits for work
        worker.send(signal.SIGTERM)
        assert worker.end().code == CODES[way], worker.said
    assert trainer.stats().sessions == 0


@pytest.mark.parametrize("kind", ["plain", "aio"])
def test_a_heartbeat_comes_as_often_as_it_is_asked_for(live: Lab, kind: str) -> None:
    """A third of the lease would be 20 minutes."""
    trainer = live.trainer()

    def is_renewed() -> bool:
        wait_until(lambda: trainer.explain().sessions, "it is there")
        deadlines = {trainer.explain().sessions[0].deadline_ms}
        wait_until(lambda: len(deadlines.union({trainer.explain().sessions[0].deadline_ms})) > 1, "it is renewed")
        return True

    async def asynchronous() -> bool:
        async with aio.Worker(live.url, live.run, lease_s=3600.0, heartbeat_s=0.05):
            return await asyncio.to_thread(is_renewed)

    if kind == "aio":
        assert asyncio.run(asynchronous())
    else:
        live.worker(heartbeat=True, lease_s=3600.0, heartbeat_s=0.05)
        assert is_renewed()


def test_a_heartbeat_that_is_longer_than_the_run_s_lease_keeps_it_all_the_same(live: Lab) -> None:
    trainer = live.trainer(lease_ms=1_500)
    trainer.enqueue(tasks(1))
    worker = live.worker(heartbeat=True, heartbeat_s=3600.0)
    (attempt,) = worker.claim()
    time.sleep(4)
    trainer.requeue()
    assert worker.submit(attempt, "x").accepted


WRONG: list[tuple[dict[str, Any], str]] = [
    ({"grace_s": -1}, "grace_s"),
    ({"grace_s": None}, "grace_s"),
    ({"grace_s": "5"}, "grace_s"),
    ({"heartbeat_s": 0}, "heartbeat_s"),
    ({"heartbeat_s": 6.0, "lease_s": 10.0}, "heartbeat_s"),
]


@pytest.mark.parametrize(("given", "named"), WRONG, ids=str)
@pytest.mark.parametrize("kind", [Worker, aio.Worker], ids=["plain", "aio"])
def test_wrong_times_are_refused(live: Lab, kind: Any, given: dict[str, Any], named: str) -> None:
    live.trainer()
    with pytest.raises(BadArgument, match=named):
        kind(live.url, live.run, **given)
