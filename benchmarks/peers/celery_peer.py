"""celery: Redis as broker and result backend; the prefork pool."""

from __future__ import annotations

from typing import Any

from celery import Celery
from runner import RESULT, mark, script, url

PACKAGES = ["celery[redis]", "hiredis"]
SLOW = True

app = Celery("celery_peer", broker=url(), backend=url())


@app.task(name="noop")
def noop(number: int) -> str:
    """The task."""
    mark(number)
    return RESULT


def workers(processes: int) -> list[list[str]]:
    """One command line."""
    options = ["-P", "prefork", "-c", str(processes), "--loglevel=ERROR", "--without-gossip", "--without-mingle"]
    return [[script("celery"), "-A", "celery_peer", "worker", *options]]


def send(number: int) -> Any:
    """Sends one task: a celery group also sends its members one by one."""
    return noop.delay(number)


def ask(number: int) -> None:
    """Waits for the result, to which the backend subscribes."""
    send(number).get(timeout=30)
