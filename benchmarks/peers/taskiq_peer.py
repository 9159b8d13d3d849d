"""taskiq-redis: a list as queue, Redis for results, 32 tasks in flight."""

from __future__ import annotations

from typing import Any

from runner import RESULT, mark, script, url
from taskiq_redis import ListQueueBroker, RedisAsyncResultBackend

PACKAGES = ["taskiq-redis", "hiredis"]

broker = ListQueueBroker(url()).with_result_backend(RedisAsyncResultBackend(url()))
start = broker.startup


@broker.task(task_name="noop")
async def noop(number: int) -> str:
    """The task."""
    mark(number)
    return RESULT


def workers(processes: int) -> list[list[str]]:
    """One command line."""
    options = ["-w", str(processes), "--max-async-tasks", "32", "--log-level", "ERROR"]
    return [[script("taskiq"), "worker", "taskiq_peer:broker", *options]]


async def send(_: Any, number: int) -> Any:
    """Enqueues by `kiq`; taskiq has no call for many."""
    return await noop.kiq(number)


async def ask(_: Any, number: int) -> None:
    """Waits for the result; taskiq polls, here once a millisecond."""
    await (await noop.kiq(number)).wait_result(check_interval=0.001, timeout=30)
