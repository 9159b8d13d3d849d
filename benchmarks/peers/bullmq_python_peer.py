"""BullMQ's Python package: the same Lua scripts, 32 jobs in flight."""

from __future__ import annotations

import asyncio
import sys
from typing import Any

from bullmq import Queue, Worker
from runner import RESULT, mark, url

PACKAGES = ["bullmq", "hiredis"]


async def _noop(job: Any, _: str) -> str:
    mark(job.data["number"])
    return RESULT


async def _work() -> None:
    Worker("bench", _noop, {"connection": url(), "concurrency": 32})
    await asyncio.Event().wait()


def workers(processes: int) -> list[list[str]]:
    """This file as a program."""
    return [[sys.executable, "-m", "bullmq_python_peer"]] * processes


async def start() -> Any:
    """BullMQ's queue."""
    return Queue("bench", {"connection": url()})


async def send(queue: Any, number: int) -> None:
    """Enqueues by `add`."""
    await queue.add("noop", {"number": number})


async def send_many(queue: Any, numbers: range) -> None:
    """Enqueues by `addBulk`."""
    await queue.addBulk([{"name": "noop", "data": {"number": number}} for number in numbers])


if __name__ == "__main__":
    asyncio.run(_work())
