"""arq: a polling worker (once a millisecond, instead of twice a second as it comes), 32 jobs in flight."""

# ruff: noqa: ARG001 - every peer has the same calls

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, ClassVar

from arq import create_pool
from arq.connections import RedisSettings
from driver import RESULT, in_flight, in_loop, mark, script, url

PACKAGES = ["arq", "hiredis"]


async def noop(_: Any, number: int) -> str:
    """The task."""
    mark(number)
    return RESULT


class WorkerSettings:
    """What the `arq` command reads."""

    functions: ClassVar[list[Any]] = [noop]
    redis_settings = RedisSettings.from_dsn(url())
    max_jobs = 32
    poll_delay = 0.001


async def _pool() -> Any:
    return await create_pool(WorkerSettings.redis_settings)


def enqueue_bulk(url: str, count: int, n: int) -> float:
    """N in flight: it has no call for many."""

    async def work() -> float:
        pool = await _pool()
        return await in_flight(count, n, lambda number: pool.enqueue_job("noop", number))

    return asyncio.run(work())


def enqueue(url: str, count: int) -> float:
    """One at a time."""
    return enqueue_bulk(url, count, 1)


def fill(url: str, count: int) -> None:
    """In bulk."""
    enqueue_bulk(url, count, 64)


def workers(url: str, processes: int) -> list[list[str]]:
    """Each its own process."""
    return [[script("arq"), "arq_peer.WorkerSettings"]] * processes


def ask(url: str) -> Callable[[int], object]:
    """Results are polled for; once a millisecond."""

    async def once(pool: Any, number: int) -> Any:
        job = await pool.enqueue_job("noop", number)
        return await job.result(timeout=30, poll_delay=0.001)

    return in_loop(_pool, once)
