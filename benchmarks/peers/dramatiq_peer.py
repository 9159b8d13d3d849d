"""dramatiq: Redis broker and Redis result backend; 8 threads a process, its default."""

from __future__ import annotations

from typing import Any

import dramatiq
from dramatiq.brokers.redis import RedisBroker
from dramatiq.results import Results
from dramatiq.results.backends import RedisBackend
from runner import RESULT, mark, script, url

PACKAGES = ["dramatiq[redis]", "hiredis"]

broker = RedisBroker(url=url())
broker.add_middleware(Results(backend=RedisBackend(url=url())))
dramatiq.set_broker(broker)


@dramatiq.actor(store_results=True)
def noop(number: int) -> str:
    """The task."""
    mark(number)
    return RESULT


def workers(processes: int) -> list[list[str]]:
    """One command line."""
    return [[script("dramatiq"), "dramatiq_peer", "-p", str(processes)]]


def send(number: int) -> Any:
    """Sends one task: dramatiq has no call for many."""
    return noop.send(number)


def ask(number: int) -> None:
    """Waits for the result: the result backend blocks."""
    send(number).get_result(block=True, timeout=30_000)
