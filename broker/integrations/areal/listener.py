"""Wakes this process's dispatchers when another process frees a slot, or there is a new version."""

from __future__ import annotations

import logging
import threading
import weakref
from collections.abc import Callable, Sequence

from broker.connections import Transport
from broker.connections.forks import Locked
from broker.errors import BadArgument, BrokerError

_log = logging.getLogger(__name__)

#: The condition that AReaL's dispatcher waits on for capacity, without a time-out. It has no public name.
_CONDITION = "_input_cv"
#: Longest wait for a marker, seconds.
_WAIT_S = 5.0
#: Longest wait for a dispatcher's lock, seconds.
_LOCK_S = 0.5


class Listener(Locked):
    """A thread that waits for markers, started with the first dispatcher.

    Args:
        transport: other threads may use it too; waits have their own connection.
        markers: the keys to wait on.
        on_marker: called with the key of a marker.
    """

    def __init__(
        self, transport: Transport, markers: Callable[[], Sequence[str]], on_marker: Callable[[str], None]
    ) -> None:
        super().__init__()
        self._transport, self._markers, self._on_marker = transport, markers, on_marker
        self._dispatchers: list[weakref.ref[object]] = []
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._work, name="broker-areal-listener", daemon=True)

    def attach(self, dispatcher: object) -> None:
        """Wakes a dispatcher from now on; keeps a weak reference to it.

        Args:
            dispatcher: AReaL's `BatchTaskDispatcher`, or an object whose `dispatcher` is one.

        Raises:
            BadArgument: the argument is neither.
        """
        found = dispatcher if hasattr(dispatcher, _CONDITION) else getattr(dispatcher, "dispatcher", None)
        if not isinstance(getattr(found, _CONDITION, None), threading.Condition):
            raise BadArgument(
                argument="dispatcher",
                given=type(dispatcher).__name__,
                expected=f"AReaL's BatchTaskDispatcher, which waits on its condition {_CONDITION}",
            )
        with self._lock:
            if all(known() is not found for known in self._dispatchers):
                self._dispatchers.append(weakref.ref(found))
            if not self._thread.is_alive() and not self._stop.is_set():
                self._thread.start()
        self.notify()

    @property
    def attached(self) -> bool:
        """Whether there is a dispatcher."""
        with self._lock:
            return any(known() is not None for known in self._dispatchers)

    def notify(self) -> bool:
        """Makes the dispatchers look at the capacity again. False: one was busy for too long; try again."""
        with self._lock:
            self._dispatchers = [known for known in self._dispatchers if known() is not None]
            dispatchers = [known() for known in self._dispatchers]
        for dispatcher in dispatchers:
            condition = getattr(dispatcher, _CONDITION, None)
            if not isinstance(condition, threading.Condition):
                continue
            # Bounded: a thread that holds the lock for long must not cost this process its lease.
            if not condition.acquire(timeout=_LOCK_S):
                return False
            try:
                condition.notify_all()
            finally:
                condition.release()
        return True

    def stop(self) -> None:
        """Tells the thread to stop. Closing the transport afterwards ends its wait."""
        self._stop.set()
        self._transport.interrupt()

    def join(self) -> None:
        """Waits for the thread's end."""
        if self._thread.is_alive():
            self._thread.join(timeout=5.0)

    def _work(self) -> None:
        while not self._stop.is_set():
            try:
                if (marker := self._transport.wait_marker(self._markers(), _WAIT_S)) is not None:
                    self._on_marker(marker)
            except BrokerError as error:
                if not self._stop.wait(1.0):
                    _log.warning("waiting for capacity goes on with the heartbeat alone for now: %s", error)
            except Exception:  # noqa: BLE001 - a dispatcher that nobody wakes waits for ever
                _log.exception("waiting for capacity failed and goes on")
                self._stop.wait(1.0)
