"""Several processes that share a run, and a facade over them that looks like one staleness manager."""

from __future__ import annotations

import json
import secrets
import signal
import threading
from collections.abc import Generator
from contextlib import ExitStack, contextmanager
from itertools import count
from typing import Any, Protocol

from broker.integrations.areal import RolloutStat, StalenessManager
from tests.child import Child


class Process(Child):
    """A process with staleness managers of its own, which carries out lines of JSON (`child.py`)."""

    def __init__(self) -> None:
        super().__init__("-m", "tests.integrations.areal.child")
        self._lock = threading.Lock()

    def begin(self, *order: Any) -> None:
        """Sends an order, and does not wait for the answer."""
        self.tell(json.dumps(order))

    def hear(self) -> Any:
        """The answer to the first order that has none yet."""
        ok, answer = json.loads(self.read_line())
        assert ok, answer
        return answer

    def do(self, *order: Any) -> Any:
        with self._lock:
            self.begin(*order)
            return self.hear()

    def call(self, name: str, method: str, *args: Any, version: int = 0, times: int = 1) -> Any:
        return self.do("call", name, version, method, times, args)

    def freeze(self) -> None:
        self.send(signal.SIGSTOP)

    def thaw(self) -> None:
        self.send(signal.SIGCONT)


@contextmanager
def processes(n: int) -> Generator[list[Process]]:
    """Starts `count` children, and ends them at the end of the block."""
    with ExitStack() as stack:
        started = [stack.enter_context(Process()) for _ in range(n)]
        yield started
        for process in started:
            process.thaw()
            process.end()


class Provider(Protocol):
    def get_version(self) -> int: ...


class Shared:
    """Looks like one staleness manager; each call goes to the next of several processes that share a run.

    Before a question, the other processes report what their hooks counted. They would do so a moment later anyway.
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
