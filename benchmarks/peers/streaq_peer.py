"""streaq: streams, 32 tasks in flight."""

# ruff: noqa: ARG001 - every peer has the same calls

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from driver import RESULT, in_flight, in_loop, mark, script, url
from streaq import Worker

PACKAGES = ["streaq", "hiredis"]

worker: Any = Worker(redis_url=url(), concurrency=32)


@worker.task()
async def noop(number: int) -> str:
    """The task."""
    mark(number)
    return RESULT


def enqueue_bulk(url: str, count: int, n: int) -> float:
    """`enqueue_many`; one at a time where n is 1."""

    async def work() -> float:
        async with worker:
            if n == 1:
                return await in_flight(count, 1, _enqueue)
            pieces = [range(first, min(count, first + n)) for first in range(0, count, n)]
            return await in_flight(
                len(pieces), 1, lambda i: worker.enqueue_many([noop.enqueue(number) for number in pieces[i]])
            )

    return asyncio.run(work())


async def _enqueue(number: int) -> Any:
    return await noop.enqueue(number)


def enqueue(url: str, count: int) -> float:
    """One at a time."""
    return enqueue_bulk(url, count, 1)


def fill(url: str, count: int) -> None:
    """In bulk."""
    enqueue_bulk(url, count, 64)


def workers(url: str, processes: int) -> list[list[str]]:
    """Each its own process."""
    return [[script("streaq"), "run", "streaq_peer:worker"]] * processes


def ask(url: str) -> Callable[[int], object]:
    """Its `result` waits."""

    async def once(_: Any, number: int) -> Any:
        task = await noop.enqueue(number)
        return await task.result(30)

    return in_loop(worker.__aenter__, once)
