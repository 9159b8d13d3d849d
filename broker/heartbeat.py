"""Renews the leases of a worker from a thread of its own: a busy event loop or long computation must not cost them."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterable

from broker.connections import Transport
from broker.errors import BrokerError
from broker.models import Attempt
from broker.session import Session

_log = logging.getLogger("broker")

#: Renewals within one lease: two may be lost before it runs out.
RENEWALS_PER_LEASE = 3


class Heartbeat:
    """The thread.

    Args:
        transport: used by this thread alongside others.
        sessions: whose leases to renew.
        on_cancelled: called from the thread for each attempt that the server says to give up.
    """

    def __init__(
        self, transport: Transport, sessions: Iterable[Session], on_cancelled: Callable[[Attempt], None]
    ) -> None:
        self._transport, self._sessions, self._on_cancelled = transport, list(sessions), on_cancelled
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="broker-heartbeat", daemon=True)

    def start(self) -> None:
        """Starts it; the sessions have joined."""
        self._thread.start()

    def end(self) -> None:
        """Lets it end with its next look."""
        self._stop.set()

    def stop(self) -> None:
        """Stops it and waits for it."""
        self.end()
        if self._thread.is_alive() and self._thread is not threading.current_thread():
            self._thread.join(timeout=5.0)

    def beat(self) -> None:
        """Renews all leases once, in one round trip."""
        renewals = [
            (session, session.id, operation) for session in self._sessions if (operation := session.renew_operation())
        ]
        if not renewals:
            return
        answers = self._transport.execute([operation for _, _, operation in renewals])
        for (session, session_id, _), answer in zip(renewals, answers, strict=True):
            for attempt in session.renewed(session_id, answer):
                self._on_cancelled(attempt)

    def _run(self) -> None:
        while not self._stop.wait(self._interval_s()):
            try:
                self.beat()
            except BrokerError as error:
                if not self._stop.is_set():
                    _log.warning("the lease could not be renewed: %s", error)
            except Exception:  # noqa: BLE001 - as the next line says
                # The thread must outlive any single failure, or all later work of this worker would be taken from it.
                _log.exception("the heartbeat failed and goes on")

    def _interval_s(self) -> float:
        leases = [session.lease_ms for session in self._sessions if session.lease_ms is not None]
        return max(0.01, min(leases, default=3000) / 1000 / RENEWALS_PER_LEASE)
