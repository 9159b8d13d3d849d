"""pydocket: streams, 32 tasks in flight."""

# ruff: noqa: ARG001 - every peer has the same calls

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from docket import Docket
from driver import RESULT, in_flight, in_loop, mark, script, url

PACKAGES = ["pydocket", "hiredis"]


async def noop(number: int) -> str:
    """The task."""
    mark(number)
    return RESULT


tasks = [noop]


async def _docket() -> Any:
    docket = Docket(name="bench", url=url())
    await docket.__aenter__()
    docket.register(noop)
    return docket


def enqueue_bulk(url: str, count: int, n: int) -> float:
    """N in flight: it has no call for many."""

    async def work() -> float:
        docket = await _docket()
        # Each `add` makes a key of its own; one shared by all would be one task.
        return await in_flight(count, n, lambda number: docket.add(noop)(number))  # noqa: PLW0108

    return asyncio.run(work())


def enqueue(url: str, count: int) -> float:
    """One at a time."""
    return enqueue_bulk(url, count, 1)


def fill(url: str, count: int) -> None:
    """In bulk."""
    enqueue_bulk(url, count, 64)


def workers(url: str, processes: int) -> list[list[str]]:
    """Each its own process."""
    options = ["--docket", "bench", "--url", url, "--tasks", "docket_peer:tasks", "--concurrency", "32"]
    return [[script("docket"), "worker", *options, "--logging-level", "ERROR"]] * processes


def ask(url: str) -> Callable[[int], object]:
    """It is told by a subscription."""

    async def once(docket: Any, number: int) -> Any:
        execution = await docket.add(noop)(number)
        return await execution.get_result()

    return in_loop(_docket, once)
