"""streaq: streams, 32 tasks in flight."""

from __future__ import annotations

from typing import Any

from runner import RESULT, mark, script, url
from streaq import Worker

PACKAGES = ["streaq", "hiredis"]

worker: Any = Worker(redis_url=url(), concurrency=32)
#: Connects; the worker stays open.
start = worker.__aenter__


@worker.task()
async def noop(number: int) -> str:
    """The task."""
    mark(number)
    return RESULT


def workers(processes: int) -> list[list[str]]:
    """Each its own process."""
    return [[script("streaq"), "run", "streaq_peer:worker"]] * processes


async def send(_: Any, number: int) -> Any:
    """Enqueues by `enqueue`."""
    return await noop.enqueue(number)


async def send_many(_: Any, numbers: range) -> None:
    """Enqueues by `enqueue_many`."""
    await worker.enqueue_many([noop.enqueue(number) for number in numbers])


async def ask(_: Any, number: int) -> None:
    """Waits for the result: `result` blocks."""
    await (await noop.enqueue(number)).result(30)
