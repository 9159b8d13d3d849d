"""Reads the version of AReaL's controller, which holds a lock of its own while it calls its workers."""

from __future__ import annotations

import threading
from typing import Any

#: How long the controller may hold its lock until the version before counts, seconds. It may hold it for a minute.
_LOCK_S = 0.05
_LOCK = type(threading.Lock())


class Versions:
    """What a provider says, without a wait for AReaL's workers: they would cost this process its lease.

    Args:
        provider: has `get_version()`.
    """

    def __init__(self, provider: Any) -> None:
        self._provider = provider
        self._last: int | None = None

    def now(self) -> int:
        """The version; while the controller tells a new one to its workers, the one before."""
        lock = getattr(self._provider, "_version_lock", None)
        if not isinstance(lock, _LOCK) or not hasattr(self._provider, "_version"):
            return int(self._provider.get_version())
        if not lock.acquire(timeout=_LOCK_S):
            return int(self._provider._version) if self._last is None else self._last  # noqa: SLF001 - under its lock
        try:
            self._last = int(self._provider._version)  # noqa: SLF001 - `get_version` takes the same lock
        finally:
            lock.release()
        return self._last
