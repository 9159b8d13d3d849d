"""rq: SimpleWorker, which does not fork for each job; results kept."""

from __future__ import annotations

from typing import Any

from redis import Redis
from rq import Queue
from runner import RESULT, mark, script, url

PACKAGES = ["rq", "hiredis"]
SLOW = True

queue = Queue("bench", connection=Redis.from_url(url()))


def noop(number: int) -> str:
    """The task."""
    mark(number)
    return RESULT


def workers(processes: int) -> list[list[str]]:
    """Each its own process."""
    command = [script("rq"), "worker", "-w", "rq.worker.SimpleWorker", "--url", url(), "--quiet", "bench"]
    return [command] * processes


def send(number: int) -> Any:
    """Enqueues by `enqueue`."""
    return queue.enqueue("rq_peer.noop", number)


def send_many(numbers: range) -> None:
    """Enqueues by `enqueue_many`."""
    queue.enqueue_many([Queue.prepare_data("rq_peer.noop", (number,)) for number in numbers])


def ask(number: int) -> None:
    """Waits for the result: `latest_result` blocks."""
    send(number).latest_result(timeout=30)
