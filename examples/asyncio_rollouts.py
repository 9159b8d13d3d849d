"""A trainer and a worker in asyncio: `python examples/asyncio_rollouts.py [URL]`.

Many rollouts run in one event loop, because they mostly wait for a model server or an environment. One of the tasks is
slow and is cancelled: its handler gets `asyncio.CancelledError`, as any cancelled coroutine.

Needs the extra `embedded`; with a URL, none.
"""

import asyncio
import random
import sys

from broker import Attempt, RunConfig, Task
from broker.aio import Trainer, Worker

STEPS = 20
BATCH = 8


async def generate(attempt: Attempt) -> list[int]:
    """Stands for a call of a model server."""
    try:
        await asyncio.sleep(60.0 if attempt.payload["slow"] else random.uniform(0.0, 0.05))
    except asyncio.CancelledError:
        print(f"gave up {attempt.id}: {attempt.cancel_reason}")
        raise
    return [attempt.slot, attempt.version]


async def train(trainer: Trainer) -> None:
    await trainer.enqueue(
        Task(id=f"prompt/{i}", payload={"slow": i == 3}, samples=4, priority=int(i == 3))
        for i in range(STEPS * BATCH + 1)
    )
    while trainer.version < STEPS:
        batch = await trainer.next_batch(timeout=30.0)
        print(f"step {trainer.version}: {', '.join(rollout.task for rollout in batch)}")
        await trainer.advance()
        if trainer.version == 2:
            await trainer.cancel(["prompt/3"])  # the worker learns this with its next heartbeat


async def main(url: str) -> None:
    config = RunConfig(consumer_batch_size=BATCH, max_staleness=2, max_concurrent_rollouts=16)
    async with (
        Trainer(url, run="examples/asyncio", config=config) as trainer,
        Worker(url, run="examples/asyncio", name="loop", lease_s=1.0) as worker,
    ):
        working = asyncio.create_task(worker.run(generate, concurrency=32))
        await train(trainer)
        worker.stop()
        await working
        stats = await trainer.stats()
        print(f"trained {stats.consumed} tasks, rejected {stats.rejected}")


if __name__ == "__main__":
    asyncio.run(main(*(sys.argv[1:2] or ["embedded://"])))
