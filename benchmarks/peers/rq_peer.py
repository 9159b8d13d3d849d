"""rq: SimpleWorker, which does not fork for each job; results kept."""

from __future__ import annotations

from collections.abc import Callable

from driver import RESULT, mark, script, timed
from redis import Redis
from rq import Queue

PACKAGES = ["rq", "hiredis"]
SLOW = True


def noop(number: int) -> str:
    """The task."""
    mark(number)
    return RESULT


def _queue(url: str) -> Queue:
    return Queue("bench", connection=Redis.from_url(url))


def enqueue_bulk(url: str, count: int, n: int) -> float:
    """`enqueue_many`."""
    queue = _queue(url)

    def work() -> None:
        for first in range(0, count, n):
            numbers = range(first, min(count, first + n))
            queue.enqueue_many([Queue.prepare_data("rq_peer.noop", (number,)) for number in numbers])

    return timed(work)


def fill(url: str, count: int) -> None:
    """In bulk."""
    enqueue_bulk(url, count, 64)


def enqueue(url: str, count: int) -> float:
    """One at a time."""
    queue = _queue(url)

    def work() -> None:
        for number in range(count):
            queue.enqueue("rq_peer.noop", number)

    return timed(work)


def workers(url: str, processes: int) -> list[list[str]]:
    """Each its own process."""
    command = [script("rq"), "worker", "-w", "rq.worker.SimpleWorker", "--url", url, "--quiet", "bench"]
    return [command] * processes


def ask(url: str) -> Callable[[int], object]:
    """The newest result blocks."""
    queue = _queue(url)
    return lambda number: queue.enqueue("rq_peer.noop", number).latest_result(timeout=30)
