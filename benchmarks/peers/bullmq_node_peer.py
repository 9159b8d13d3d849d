"""BullMQ on Node: 32 jobs in flight. `bullmq.js` does the work."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

NODE_PACKAGES = ["bullmq", "ioredis"]

_NODE = shutil.which("node") or "node"
_PROGRAM = str(Path(__file__).parent / "bullmq.js")


def _node(*words: object) -> str:
    done = subprocess.run([_NODE, _PROGRAM, *map(str, words)], check=True, stdout=subprocess.PIPE, text=True)
    return done.stdout


def enqueue_bulk(url: str, count: int, n: int) -> float:
    """`addBulk`; one at a time where n is 1."""
    return float(_node("enqueue", url, count, n))


def enqueue(url: str, count: int) -> float:
    """One at a time."""
    return enqueue_bulk(url, count, 1)


def fill(url: str, count: int) -> None:
    """In bulk."""
    enqueue_bulk(url, count, 64)


def workers(url: str, processes: int) -> list[list[str]]:
    """Each its own process."""
    return [[_NODE, _PROGRAM, "work", url, os.environ["BENCHMARK_STAMPS"]]] * processes


def ask(url: str) -> Callable[[int], tuple[float, float]]:
    """A Node process that waits with QueueEvents; it says when it began and ended."""
    child = subprocess.Popen([_NODE, _PROGRAM, "ask", url], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    asking, telling = child.stdin, child.stdout
    assert asking is not None
    assert telling is not None
    telling.readline()

    def once(number: int) -> tuple[float, float]:
        asking.write(f"{number}\n")
        asking.flush()
        begun, ended = telling.readline().split()
        return float(begun), float(ended)

    return once
