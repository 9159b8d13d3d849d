"""Several processes that share a run, and a facade over them that looks like one staleness manager."""

from __future__ import annotations

import json
import os
import secrets
import signal
import subprocess
import sys
import threading
from collections.abc import Generator
from contextlib import contextmanager, suppress
from itertools import count
from pathlib import Path
from typing import Any, Protocol

from broker.integrations.areal import RolloutStat, StalenessManager

ROOT = Path(__file__).resolve().parents[3]


class Process:
    """One child process."""

    def __init__(self) -> None:
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        self._process = subprocess.Popen(
            [sys.executable, str(Path(__file__).with_name("child.py"))],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment, cwd=ROOT,
        )  # fmt: skip
        self._lock = threading.Lock()

    @property
    def pid(self) -> int:
        return self._process.pid

    def tell(self, *line: Any) -> None:
        """Says what to do without waiting for it."""
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(line) + "\n")
        self._process.stdin.flush()

    def hear(self) -> Any:
        assert self._process.stdout is not None
        ok, answer = json.loads(self._process.stdout.readline())
        assert ok, answer
        return answer

    def do(self, *line: Any) -> Any:
        with self._lock:
            self.tell(*line)
            return self.hear()

    def call(self, name: str, method: str, *args: Any, version: int = 0, times: int = 1) -> Any:
        return self.do("call", name, version, method, times, args)

    def kill(self) -> None:
        os.kill(self.pid, signal.SIGKILL)

    def freeze(self) -> None:
        os.kill(self.pid, signal.SIGSTOP)

    def thaw(self) -> None:
        os.kill(self.pid, signal.SIGCONT)

    def close(self) -> None:
        if self._process.poll() is None:
            self.thaw()
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        with suppress(BrokenPipeError):
            self._process.stdin.close()
        self._process.wait(timeout=20)
        self._process.stdout.close()


@contextmanager
def processes(n: int) -> Generator[list[Process]]:
    """So many children, ended at the end."""
    started = [Process() for _ in range(n)]
    try:
        yield started
    finally:
        for process in started:
            process.close()


class Provider(Protocol):
    def get_version(self) -> int: ...


class Shared:
    """Looks like one staleness manager; each call goes to the next of several processes that share a run.

    Before a question what the others' hooks counted is reported: they do so by themselves, a moment later.
    """

    def __init__(
        self, children: list[Process], version_provider: Provider, max_concurrent_rollouts: int,
        consumer_batch_size: int, max_staleness: int, *, url: str, run: str,
    ) -> None:  # fmt: skip
        self._children, self._provider, self._turn = children, version_provider, count()
        self._lock = threading.Lock()
        self.name = secrets.token_hex(4)
        numbers = [max_concurrent_rollouts, consumer_batch_size, max_staleness]
        self.max_concurrent_rollouts, self.consumer_batch_size, self.max_staleness = numbers
        for child in children:
            child.do("new", self.name, version_provider.get_version(), numbers, {"url": url, "run": run})

    def _next(self, method: str, *args: Any) -> Any:
        version = self._provider.get_version()
        child = self._children[next(self._turn) % len(self._children)]
        if not method.startswith("get"):
            return child.call(self.name, method, *args, version=version)
        with self._lock:
            for other in self._children:
                if other is not child:
                    other.call(self.name, "flush", version=version)
            return child.call(self.name, method, *args, version=version)

    def get_pending_limit(self) -> int:
        return self._next("get_pending_limit")

    def get_capacity(self) -> int:
        return self._next("get_capacity")

    def get_stats(self) -> RolloutStat:
        return RolloutStat(**self._next("get_stats"))

    def on_rollout_enqueued(self) -> None:
        self._next("on_rollout_enqueued")

    def on_rollout_submitted(self) -> None:
        self._next("on_rollout_submitted")

    def on_rollout_accepted(self) -> None:
        self._next("on_rollout_accepted")

    def on_rollout_rejected(self) -> None:
        self._next("on_rollout_rejected")

    def on_version_recovered(self, version: int) -> None:
        self._next("on_version_recovered", version)

    def close(self) -> None:
        for child in self._children:
            child.do("close", self.name)


AnyManager = StalenessManager | Shared
