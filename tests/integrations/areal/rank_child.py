"""A rank that trains each step together with others: `python -m ... URL RUN NAME C B S SHARE MEAN_MS RANKS LIFE VERSION`.

It starts rollouts as AReaL's dispatcher does, each of random length, and trains a step once it has its share and all
ranks have theirs. It says the version after each step.
"""

from __future__ import annotations

import logging
import random
import sys
import threading
from collections import deque

from broker.connections import open_transport
from broker.integrations.areal import StalenessManager

#: Short, as what a killed rank had running counts until then.
LEASE_S = 1.5


class Rank:
    """A rank, and the provider of its version."""

    def __init__(
        self, url: str, run: str, name: str, numbers: list[int], share: int, mean_s: float, version: int
    ) -> None:
        self.version, self._share, self._mean_s = version, share, mean_s
        self._input_cv = threading.Condition()  # what the manager's listener rings
        self._results = threading.Semaphore(0)
        self._pending: deque[int] = deque()
        self.manager = StalenessManager(self, *numbers, url=url, run=run, owner=name, share=share, lease_s=LEASE_S)
        if version:
            self.manager.on_version_recovered(version)
        self.manager.attach(self)
        threading.Thread(target=self._dispatch, daemon=True).start()

    def get_version(self) -> int:
        return self.version

    def train(self) -> None:
        """Feeds the dispatcher, and waits for as many results as the rank trains."""
        with self._input_cv:
            while len(self._pending) < self.manager.get_pending_limit():
                self._pending.append(0)
                self.manager.on_rollout_enqueued()
            self._input_cv.notify_all()
        for _ in range(self._share):
            self._results.acquire()

    def _dispatch(self) -> None:
        while True:
            with self._input_cv:
                while not (self._pending and self.manager.get_capacity() > 0):
                    self._input_cv.wait()
                self._pending.popleft()
            self.manager.on_rollout_submitted()
            timer = threading.Timer(random.expovariate(1 / self._mean_s), self._end)
            timer.daemon = True
            timer.start()

    def _end(self) -> None:
        self.manager.on_rollout_accepted()
        self._results.release()
        with self._input_cv:
            self._input_cv.notify()


def main(url: str, run: str, name: str, *words: str) -> None:
    logging.basicConfig(level=logging.WARNING)
    *numbers, share, mean_ms, ranks, life, version = map(int, words)
    rank = Rank(url, run, name, numbers, share, mean_ms / 1000, version)
    with open_transport(url) as barrier:
        while True:
            rank.train()
            arrived = int(barrier.command("INCR", f"arrived:{life}:{rank.version}"))
            if arrived == ranks:
                for _ in range(ranks):
                    barrier.command("RPUSH", f"go:{life}:{rank.version}", 1)
            while not barrier.command("LPOP", f"go:{life}:{rank.version}"):
                threading.Event().wait(0.005)
            rank.version += 1
            sys.stdout.write(f"{rank.version}\n")
            sys.stdout.flush()


if __name__ == "__main__":
    main(*sys.argv[1:])
