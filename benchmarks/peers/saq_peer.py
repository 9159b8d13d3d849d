"""saq: its Redis queue, 32 jobs in flight."""

# ruff: noqa: ARG001 - every peer has the same calls

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from driver import RESULT, in_flight, in_loop, mark, script, url
from saq import Queue

# It imports typing_extensions without asking for it.
PACKAGES = ["saq[redis,hiredis]", "typing_extensions"]


async def noop(_: Any, *, number: int) -> str:
    """The task."""
    mark(number)
    return RESULT


settings = {"queue": Queue.from_url(url()), "functions": [noop], "concurrency": 32}


async def _queue() -> Any:
    queue = Queue.from_url(url())
    await queue.connect()
    return queue


def enqueue_bulk(url: str, count: int, n: int) -> float:
    """N in flight: it has no call for many."""

    async def work() -> float:
        queue = await _queue()
        return await in_flight(count, n, lambda number: queue.enqueue("noop", number=number))

    return asyncio.run(work())


def enqueue(url: str, count: int) -> float:
    """One at a time."""
    return enqueue_bulk(url, count, 1)


def fill(url: str, count: int) -> None:
    """In bulk."""
    enqueue_bulk(url, count, 64)


def workers(url: str, processes: int) -> list[list[str]]:
    """Each its own process."""
    return [[script("saq"), "saq_peer.settings", "--quiet"]] * processes


def ask(url: str) -> Callable[[int], object]:
    """`apply` polls; once a millisecond."""

    async def once(queue: Any, number: int) -> Any:
        return await queue.apply("noop", poll_interval=0.001, number=number)

    return in_loop(_queue, once)
