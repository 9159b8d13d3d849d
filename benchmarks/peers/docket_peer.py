"""pydocket: streams, 32 tasks in flight."""

from __future__ import annotations

from typing import Any

from docket import Docket
from runner import RESULT, mark, script, url

PACKAGES = ["pydocket", "hiredis"]


async def noop(number: int) -> str:
    """The task."""
    mark(number)
    return RESULT


tasks = [noop]


def workers(processes: int) -> list[list[str]]:
    """Each its own process."""
    options = ["--docket", "bench", "--url", url(), "--tasks", "docket_peer:tasks", "--concurrency", "32"]
    return [[script("docket"), "worker", *options, "--logging-level", "ERROR"]] * processes


async def start() -> Any:
    """The docket, which stays open."""
    docket = Docket(name="bench", url=url())
    await docket.__aenter__()
    docket.register(noop)
    return docket


async def send(docket: Any, number: int) -> Any:
    """Enqueues a task. Each `add` makes a new key, because one key would be one task. docket has no call for many."""
    return await docket.add(noop)(number)


async def ask(docket: Any, number: int) -> None:
    """Waits for the result by a subscription."""
    await (await send(docket, number)).get_result()
