"""BullMQ on Node: 32 jobs in flight. `bullmq.js` does the work."""

from __future__ import annotations

import os
import shutil
import subprocess
from functools import cache
from pathlib import Path

from runner import url

NODE_PACKAGES = ["bullmq", "ioredis"]

_PROGRAM = [shutil.which("node") or "node", str(Path(__file__).parent / "bullmq.js")]


def workers(processes: int) -> list[list[str]]:
    """Each its own process."""
    return [[*_PROGRAM, "work", url(), os.environ["BENCHMARK_STAMPS"]]] * processes


def sent(count: int, n: int) -> float:
    """Sends by `addBulk`; one at a time if n is 1."""
    words = [*_PROGRAM, "enqueue", url(), str(count), str(n)]
    return float(subprocess.run(words, check=True, stdout=subprocess.PIPE, text=True).stdout)


@cache
def _asking() -> subprocess.Popen[str]:
    child = subprocess.Popen([*_PROGRAM, "ask", url()], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    _line(child)
    return child


def _line(child: subprocess.Popen[str]) -> str:
    assert child.stdout is not None
    return child.stdout.readline()


def ask(number: int) -> tuple[float, float]:
    """A Node process waits with QueueEvents, and prints when it began and ended."""
    child = _asking()
    assert child.stdin is not None
    child.stdin.write(f"{number}\n")
    child.stdin.flush()
    begun, ended = _line(child).split()
    return float(begun), float(ended)
