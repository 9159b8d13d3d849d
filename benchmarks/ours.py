"""The broker as the scenarios use it: through its public API only."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from benchmarks.bare import PAYLOAD, RESULT
from benchmarks.cases import NotRunError
from broker import RunConfig, Task, Trainer, Worker, aio
from broker.values.attempt import Attempt

#: Items of one call in the batched cases.
BATCH = 64


def config(tasks: int, **fields: Any) -> RunConfig:
    """The config of a run in which this many tasks may be in flight, with all guarantees and events on."""
    return RunConfig(consumer_batch_size=tasks, max_concurrent_rollouts=tasks, max_staleness=1, **fields)


def tasks(count: int, *, first: int = 0, samples: int = 1, payload: bytes = PAYLOAD) -> Iterator[Task]:
    """Tasks numbered from `first`."""
    return (Task(id=f"t{i}", payload=payload, samples=samples) for i in range(first, first + count))


def filled(url: str, run: str, count: int, *, samples: int = 1, **fields: Any) -> Trainer:
    """Returns a trainer whose run has `count` tasks waiting."""
    trainer = Trainer(url, run, config(count, **fields))
    trainer.enqueue(tasks(count, samples=samples))
    return trainer


def loop_one_at_a_time(worker: Worker, count: int) -> None:
    """`for attempt in worker: submit`: each submit claims the next attempt in the same round trip."""
    for done, attempt in enumerate(worker, 1):
        answer = worker.submit(attempt, RESULT)
        assert answer.accepted, answer
        if done == count:
            return


def loop_batched(worker: Worker, batch: int = BATCH, timeout: float = 0.0) -> int:
    """Claims and submits in batches until no work is left. Returns how many attempts."""
    if not hasattr(worker, "submit_many"):
        raise NotRunError("the client has no submit_many")
    done = 0
    while attempts := worker.claim(batch, timeout):
        answers = worker.submit_many([(attempt, RESULT) for attempt in attempts])
        assert all(answer.accepted for answer in answers), answers
        done += len(attempts)
    return done


def loop_over_batches(worker: Worker, count: int, batch: int = BATCH) -> int:
    """`for batch in worker.batches(64): submit_many`: the last results of a batch claim the next in one round trip."""
    done = 0
    for attempts in worker.batches(batch):
        answers = worker.submit_many([(attempt, RESULT) for attempt in attempts])
        assert all(answer.accepted for answer in answers), answers
        done += len(attempts)
        if done == count:
            break
    return done


async def run_concurrently(url: str, run: str, count: int, concurrency: int) -> None:
    """Does `count` no-ops through `aio.Worker.run`."""
    async with aio.Worker(url, run) as worker:
        left = count

        async def handler(_: Attempt) -> bytes:
            nonlocal left
            left -= 1
            if left == 0:
                worker.drain()
            return RESULT

        await worker.run(handler, concurrency=concurrency)
