"""BullMQ's Python package: the same Lua scripts, 32 jobs in flight."""

# ruff: noqa: ARG001 - every peer has the same calls

from __future__ import annotations

import asyncio
import sys
from typing import Any

from bullmq import Queue, Worker
from driver import RESULT, in_flight, mark, url

PACKAGES = ["bullmq", "hiredis"]


def enqueue_bulk(url: str, count: int, n: int) -> float:
    """`addBulk`; one at a time where n is 1."""

    async def work() -> float:
        queue = Queue("bench", {"connection": url})
        if n == 1:
            return await in_flight(count, 1, lambda number: queue.add("noop", {"number": number}))
        pieces = [range(first, min(count, first + n)) for first in range(0, count, n)]
        return await in_flight(
            len(pieces), 1,
            lambda i: queue.addBulk([{"name": "noop", "data": {"number": number}} for number in pieces[i]]),
        )  # fmt: skip

    return asyncio.run(work())


def enqueue(url: str, count: int) -> float:
    """One at a time."""
    return enqueue_bulk(url, count, 1)


def fill(url: str, count: int) -> None:
    """In bulk."""
    enqueue_bulk(url, count, 64)


def workers(url: str, processes: int) -> list[list[str]]:
    """This file, run."""
    return [[sys.executable, "-m", "bullmq_python_peer"]] * processes


async def _noop(job: Any, _: str) -> str:
    mark(job.data["number"])
    return RESULT


async def _work() -> None:
    Worker("bench", _noop, {"connection": url(), "concurrency": 32})
    await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(_work())
