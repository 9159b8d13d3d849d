"""celery: Redis as broker and result backend; the prefork pool."""

# ruff: noqa: ARG001 - every peer has the same calls

from __future__ import annotations

from collections.abc import Callable

from celery import Celery
from driver import RESULT, mark, script, timed, url

PACKAGES = ["celery[redis]", "hiredis"]
SLOW = True

app = Celery("celery_peer", broker=url(), backend=url())


@app.task(name="noop")
def noop(number: int) -> str:
    """The task."""
    mark(number)
    return RESULT


def fill(url: str, count: int) -> None:
    """One at a time: a group sends its members one by one too."""
    for number in range(count):
        noop.delay(number)


def enqueue(url: str, count: int) -> float:
    """One at a time."""
    return timed(lambda: fill(url, count))


def workers(url: str, processes: int) -> list[list[str]]:
    """One command line."""
    options = ["-P", "prefork", "-c", str(processes), "--loglevel=ERROR", "--without-gossip", "--without-mingle"]
    return [[script("celery"), "-A", "celery_peer", "worker", *options]]


def ask(url: str) -> Callable[[int], object]:
    """The backend subscribes to the result."""
    return lambda number: noop.delay(number).get(timeout=30)
