"""huey: RedisHuey (a list and BLPOP), results stored; threads or processes of one consumer."""

from __future__ import annotations

from typing import Any

from huey import RedisHuey
from runner import RESULT, mark, script, url

PACKAGES = ["huey", "redis", "hiredis"]

huey = RedisHuey("bench", url=url())


@huey.task()
def noop(number: int) -> str:
    """The task."""
    mark(number)
    return RESULT


def workers(processes: int) -> list[list[str]]:
    """One consumer."""
    kind = "thread" if processes == 1 else "process"
    return [[script("huey_consumer"), "huey_peer.huey", "-w", str(processes), "-k", kind, "-n", "-q"]]


def send(number: int) -> Any:
    """Sends one task: huey has no call for many."""
    return noop(number)


def ask(number: int) -> None:
    """Waits for the result; huey polls, here at least once a millisecond."""
    send(number).get(blocking=True, timeout=30, max_delay=0.001)
