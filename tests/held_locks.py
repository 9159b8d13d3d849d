"""A thread holds the locks of all the broker's objects, as threads of a parent may during a fork."""

from __future__ import annotations

import gc
import threading
from collections.abc import Generator
from contextlib import contextmanager
from typing import Any

#: If a lock is in use for this many seconds, the thread releases all locks and takes them anew.
_IN_USE_S = 0.2
_KINDS: tuple[type, ...] = (type(threading.Lock()), type(threading.RLock()))


@contextmanager
def all_locks_held() -> Generator[int]:
    """While the block runs, another thread holds every lock of this process's broker objects; gives their number."""
    holds, may_end = threading.Event(), threading.Event()
    held: list[Any] = []

    def hold() -> None:
        while not holds.is_set():
            for lock in _locks():
                if not lock.acquire(timeout=_IN_USE_S):
                    break
                held.append(lock)
            else:
                holds.set()
                may_end.wait()
            while held:
                held.pop().release()

    thread = threading.Thread(target=hold, name="holds-all-locks", daemon=True)
    thread.start()
    assert holds.wait(30), "all locks are held"
    try:
        yield len(held)
    finally:
        may_end.set()
        thread.join(30)


def _locks() -> list[Any]:
    """The locks in attributes of the broker's objects, also those within an event."""
    found: dict[int, Any] = {}
    for each in gc.get_objects():
        if str(type(each).__module__).partition(".")[0] != "broker":
            continue
        for value in list(getattr(each, "__dict__", {}).values()):
            lock = (
                getattr(getattr(value, "_cond", None), "_lock", None) if isinstance(value, threading.Event) else value
            )
            if isinstance(lock, _KINDS):
                found[id(lock)] = lock
    return list(found.values())
