"""dramatiq: Redis broker and Redis result backend; 8 threads a process, as it comes."""

# ruff: noqa: ARG001 - every peer has the same calls

from __future__ import annotations

from collections.abc import Callable

import dramatiq
from dramatiq.brokers.redis import RedisBroker
from dramatiq.results import Results
from dramatiq.results.backends import RedisBackend
from driver import RESULT, mark, script, timed, url

PACKAGES = ["dramatiq[redis]", "hiredis"]

broker = RedisBroker(url=url())
broker.add_middleware(Results(backend=RedisBackend(url=url())))
dramatiq.set_broker(broker)


@dramatiq.actor(store_results=True)
def noop(number: int) -> str:
    """The task."""
    mark(number)
    return RESULT


def fill(url: str, count: int) -> None:
    """One at a time: it has no other way."""
    for number in range(count):
        noop.send(number)


def enqueue(url: str, count: int) -> float:
    """One at a time."""
    return timed(lambda: fill(url, count))


def workers(url: str, processes: int) -> list[list[str]]:
    """One command line."""
    return [[script("dramatiq"), "dramatiq_peer", "-p", str(processes)]]


def ask(url: str) -> Callable[[int], object]:
    """The result backend blocks."""
    return lambda number: noop.send(number).get_result(block=True, timeout=30_000)
