"""huey: RedisHuey (a list and BLPOP), results stored; threads or processes of one consumer."""

# ruff: noqa: ARG001 - every peer has the same calls

from __future__ import annotations

from collections.abc import Callable

from driver import RESULT, mark, script, timed, url
from huey import RedisHuey

PACKAGES = ["huey", "redis", "hiredis"]

huey = RedisHuey("bench", url=url())


@huey.task()
def noop(number: int) -> str:
    """The task."""
    mark(number)
    return RESULT


def fill(url: str, count: int) -> None:
    """One at a time: it has no other way."""
    for number in range(count):
        noop(number)


def enqueue(url: str, count: int) -> float:
    """One at a time."""
    return timed(lambda: fill(url, count))


def workers(url: str, processes: int) -> list[list[str]]:
    """One consumer."""
    kind = "thread" if processes == 1 else "process"
    return [[script("huey_consumer"), "huey_peer.huey", "-w", str(processes), "-k", kind, "-n", "-q"]]


def ask(url: str) -> Callable[[int], object]:
    """Results are polled for; as often as once a millisecond."""
    return lambda number: noop(number).get(blocking=True, timeout=30, max_delay=0.001)
