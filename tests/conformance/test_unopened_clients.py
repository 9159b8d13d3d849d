"""An asyncio client that was made and not opened: it has no session, no epoch and no heartbeat."""

import asyncio
import logging
import threading

import pytest

from broker import BadArgument, Task, aio
from tests.conformance.async_calls import calls_of
from tests.conformance.lab import Lab


def test_each_call_of_an_unopened_client_says_how_it_is_opened(lab: Lab, caplog: pytest.LogCaptureFixture):
    lab.trainer().enqueue(Task(id="t0"))
    (attempt,) = lab.worker().claim()
    before = lab.dump()

    async def scenario() -> None:
        trainer = aio.Trainer(lab.url, lab.run, clock=lab.clock)
        worker = aio.Worker(lab.url, lab.run, clock=lab.clock)
        for calls in calls_of(trainer, worker, attempt).values():
            for name, call in calls.items():
                if name != "open":
                    with pytest.raises(BadArgument, match="use it with `async with`"):
                        await call()
        await trainer.close()
        await worker.close()

    with caplog.at_level(logging.WARNING):
        asyncio.run(scenario())
    assert lab.dump() == before
    assert caplog.records == []


def test_a_worker_that_is_opened_twice_has_one_heartbeat(lab: Lab):
    lab.trainer()

    async def scenario() -> tuple[int, int]:
        async with aio.Worker(lab.url, lab.run, clock=lab.clock) as worker:
            before, sessions = threading.active_count(), worker.sessions
            async with await worker.open() as same:
                assert same is worker
                assert same.sessions == sessions
                return before, threading.active_count()

    before, after = asyncio.run(scenario())
    assert after == before
