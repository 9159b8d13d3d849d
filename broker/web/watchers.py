"""Looks at runs once a second for as long as somebody has their page open."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any, Final

from broker.clients.operator import Operator
from broker.errors import BrokerError, NoRun
from broker.inspection.events import Follower
from broker.inspection.timeline import Timeline
from broker.web.snapshot import WORKERS, snapshot

#: Pause between two looks, in seconds. A look that takes long is followed by a longer pause.
EVERY_S: Final = 1.0
#: A look takes at most one part in this many of the time.
_SHARE: Final = 4
#: A watcher ends when nobody has asked for so long, in seconds.
IDLE_S: Final = 30.0
#: How long a look waits for a server that does not answer, in seconds.
PATIENCE_S: Final = 2.0


class Watcher:
    """A thread that looks at one run.

    Args:
        url: the server.
        run: the run.
        changed: called after each look, from the thread.

    Attributes:
        number: of the last look, from 1.
        latest: what it found; None before the first.
        problem: why the last look found nothing; empty: it did.
        is_missing: whether the server had no such run when it answered last.
    """

    def __init__(self, url: str, run: str, changed: Callable[[], None]) -> None:
        self._url, self._run, self._changed = url, run, changed
        self._ending = threading.Event()
        self._asked_at = time.monotonic()
        self.number = 0
        self.latest: dict[str, Any] | None = None
        self.problem = ""
        self.is_missing = False
        self._thread = threading.Thread(target=self._look_again, name=f"broker-web-{run}", daemon=True)
        self._thread.start()

    @property
    def is_alive(self) -> bool:
        """Whether the watcher still looks."""
        return self._thread.is_alive() and not self._ending.is_set()

    def asked(self) -> bool:
        """Notes that somebody wants to see the run. Returns whether the watcher still looks."""
        self._asked_at = time.monotonic()
        return self.is_alive

    def end(self) -> None:
        """Ends the thread, at the latest after one look."""
        self._ending.set()

    def join(self) -> None:
        """Waits for the thread's end."""
        self._thread.join(PATIENCE_S + EVERY_S + 5)

    def _look_again(self) -> None:
        with Operator(self._url, retry_for_s=PATIENCE_S, timeout_s=PATIENCE_S) as operator:
            timeline, follower = Timeline(), Follower(operator.transport.command, self._run)
            while not self._ending.is_set():
                began = time.monotonic()
                try:
                    found = operator.explain(self._run, WORKERS)
                    timeline.read(follower)
                    self.latest, self.problem, self.is_missing = snapshot(found, timeline), "", False
                except NoRun as error:  # purged: another run of this name begins a new log
                    timeline, follower = Timeline(), Follower(operator.transport.command, self._run)
                    self.latest, self.problem, self.is_missing = None, str(error), True
                except BrokerError as error:
                    self.problem = str(error)
                self.number += 1
                self._changed()
                if time.monotonic() - self._asked_at > IDLE_S:
                    self._ending.set()
                took = time.monotonic() - began
                self._ending.wait(max(EVERY_S, took * _SHARE))


class Watchers:
    """The watchers of all runs that somebody looks at.

    Args:
        url: the server.
        changed: called after each look of any of them, from its thread.
    """

    def __init__(self, url: str, changed: Callable[[], None]) -> None:
        self._url, self._changed = url, changed
        self._by_run: dict[str, Watcher] = {}
        self._lock = threading.Lock()

    def of(self, run: str) -> Watcher:
        """The watcher of a run, which may be a new one."""
        with self._lock:
            found = self._by_run.get(run)
            if found is None or not found.asked():
                found = self._by_run[run] = Watcher(self._url, run, self._changed)
            self._by_run = {name: watcher for name, watcher in self._by_run.items() if name == run or watcher.is_alive}
            return found

    def close(self) -> None:
        """Ends all of them."""
        with self._lock:
            for watcher in self._by_run.values():
                watcher.end()
            for watcher in self._by_run.values():
                watcher.join()
            self._by_run.clear()
