"""Both workers say at INFO what they do: the start, the first claim, what was done and what failed."""

import asyncio
import logging

import pytest

from broker import Attempt, Worker, aio
from broker.worker import activity
from tests.conformance.lab import Lab, tasks


@pytest.mark.parametrize("flavour", ["sync", "aio"])
def test_a_worker_says_what_it_does(
    lab: Lab, flavour: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    caplog.set_level(logging.INFO, "broker")
    lab.trainer(consumer_batch_size=3, max_attempts=1).enqueue(tasks(3))

    def handled(worker: Worker | aio.Worker, attempt: Attempt) -> bytes:
        if attempt.task == "t0":
            return b"x"
        if attempt.task == "t2":
            monkeypatch.setattr(activity, "TELL_EVERY_S", 0.0)  # the minute is over
            worker.drain()
        raise ValueError(attempt.task)

    async def works() -> None:
        async with aio.Worker(lab.url, lab.run, name="w", clock=lab.clock) as worker:

            async def handler(attempt: Attempt) -> bytes:
                return handled(worker, attempt)

            await worker.run(handler)

    if flavour == "aio":
        asyncio.run(works())
    else:
        with Worker(lab.url, lab.run, name="w", clock=lab.clock) as worker:
            worker.run(lambda attempt: handled(worker, attempt))
    first, second, *_ = caplog.messages
    assert first == f"worker w serves run {lab.run}"
    assert second == f"worker w has its first work: 1 attempt of run {lab.run}"
    assert "worker w: 1 done, 2 failed in " in caplog.text
    failures = [record for record in caplog.records if " failed: " in record.getMessage()]
    assert [record.levelno for record in failures] == [logging.WARNING] * 2
    assert [record.exc_info is not None for record in failures] == [True, False]
