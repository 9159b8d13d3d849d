"""saq: its Redis queue, 32 jobs in flight."""

from __future__ import annotations

from typing import Any

from runner import RESULT, mark, script, url
from saq import Queue

# saq imports typing_extensions, but does not require it.
PACKAGES = ["saq[redis,hiredis]", "typing_extensions"]


async def noop(_: Any, *, number: int) -> str:
    """The task."""
    mark(number)
    return RESULT


settings = {"queue": Queue.from_url(url()), "functions": [noop], "concurrency": 32}


def workers(processes: int) -> list[list[str]]:
    """Each its own process."""
    return [[script("saq"), "saq_peer.settings", "--quiet"]] * processes


async def start() -> Any:
    """The queue of saq, connected."""
    queue = Queue.from_url(url())
    await queue.connect()
    return queue


async def send(queue: Any, number: int) -> None:
    """Enqueues by `enqueue`; saq has no call for many."""
    await queue.enqueue("noop", number=number)


async def ask(queue: Any, number: int) -> None:
    """`apply` polls for the result: here once a millisecond."""
    await queue.apply("noop", poll_interval=0.001, number=number)
