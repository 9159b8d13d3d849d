"""A server that is away for longer than a time-out, and for less than the clients' patience: work goes on after it."""

from __future__ import annotations

import asyncio
import threading
import time
from collections import Counter

import pytest

from broker import Attempt, RunConfig, Task, Trainer, Worker, aio
from tests.servers import ServerUnderTest, real_kinds
from tests.threads import InThread
from tests.waiting import wait_until

pytestmark = [pytest.mark.processes, pytest.mark.slow]

#: The outage is longer than a silent server's time-out and a lease, and shorter than the patience, seconds.
TIMEOUT_S, LEASE_S, AWAY_S, PATIENCE_S = 4.0, 6.0, 12.0, 60.0
N_TASKS = 400


@pytest.mark.parametrize("how", ["frozen", "gone"])
def test_run_goes_on_after_an_outage_within_its_patience(how: str):
    """Both clients; each task is trained on once, none has failed, and no result that was accepted is lost."""
    done: Counter[str] = Counter()
    counting = threading.Lock()

    def handler(attempt: Attempt) -> bytes:
        time.sleep(0.02)
        with counting:
            done[attempt.task] += 1
        return attempt.task.encode()

    async def awaited(attempt: Attempt) -> bytes:
        await asyncio.sleep(0.02)
        with counting:
            done[attempt.task] += 1
        return attempt.task.encode()

    config = RunConfig(consumer_batch_size=N_TASKS, max_attempts=1, lease_ms=round(LEASE_S * 1000))
    with ServerUnderTest(real_kinds()[0], durable=True) as server, Trainer(server.url, "run", config) as trainer:
        trainer.enqueue(Task(id=f"t{i}") for i in range(N_TASKS))
        workers: list[Worker | aio.Worker] = []

        def works() -> None:
            with Worker(server.url, "run", timeout_s=TIMEOUT_S, retry_for_s=PATIENCE_S) as worker:
                workers.append(worker)
                worker.run(handler, concurrency=2)

        async def works_on_a_loop() -> None:
            async with aio.Worker(server.url, "run", timeout_s=TIMEOUT_S, retry_for_s=PATIENCE_S) as worker:
                workers.append(worker)
                await worker.run(awaited, concurrency=2)

        running = InThread(works), InThread(lambda: asyncio.run(works_on_a_loop()))
        wait_until(lambda: trainer.stats().ready >= N_TASKS // 8, "both work")
        server.freeze() if how == "frozen" else server.kill()
        try:
            time.sleep(AWAY_S)
            assert all(one.is_running for one in running)
        finally:
            server.thaw() if how == "frozen" else server.start()
        batch = trainer.next_batch(timeout=PATIENCE_S)
        for worker in workers:
            worker.drain()
        for one in running:
            one.result()
        stats = trainer.stats()
    assert sorted(rollout.task for rollout in batch) == sorted(f"t{i}" for i in range(N_TASKS))
    assert [rollout.results for rollout in batch] == [[rollout.task.encode()] for rollout in batch]
    assert (stats.dead, stats.totals.get("failed", 0), stats.totals.get("expired", 0)) == (0, 0, 0)
    assert set(done) == {rollout.task for rollout in batch}
