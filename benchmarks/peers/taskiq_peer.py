"""taskiq-redis: a list as queue, Redis for results, 32 tasks in flight."""

# ruff: noqa: ARG001 - every peer has the same calls

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from driver import RESULT, in_flight, in_loop, mark, script, url
from taskiq_redis import ListQueueBroker, RedisAsyncResultBackend

PACKAGES = ["taskiq-redis", "hiredis"]

broker = ListQueueBroker(url()).with_result_backend(RedisAsyncResultBackend(url()))


@broker.task(task_name="noop")
async def noop(number: int) -> str:
    """The task."""
    mark(number)
    return RESULT


def enqueue_bulk(url: str, count: int, n: int) -> float:
    """N in flight: it has no call for many."""

    async def work() -> float:
        await broker.startup()
        return await in_flight(count, n, noop.kiq)

    return asyncio.run(work())


def enqueue(url: str, count: int) -> float:
    """One at a time."""
    return enqueue_bulk(url, count, 1)


def fill(url: str, count: int) -> None:
    """In bulk."""
    enqueue_bulk(url, count, 64)


def workers(url: str, processes: int) -> list[list[str]]:
    """One command line."""
    options = ["-w", str(processes), "--max-async-tasks", "32", "--log-level", "ERROR"]
    return [[script("taskiq"), "worker", "taskiq_peer:broker", *options]]


def ask(url: str) -> Callable[[int], object]:
    """Results are polled for; once a millisecond."""

    async def once(_: Any, number: int) -> Any:
        task = await noop.kiq(number)
        return await task.wait_result(check_interval=0.001, timeout=30)

    return in_loop(broker.startup, once)
