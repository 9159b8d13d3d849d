"""Renews a worker's leases from a thread: a busy event loop or a long computation must not lose them."""

from __future__ import annotations

import logging
import math
import threading
import time
from collections.abc import Callable, Iterable

from broker.connections import Transport
from broker.connections.repeated_warning import RepeatedWarning
from broker.errors import BadArgument, BrokerError, NoRun, NoSession
from broker.protocol import anyone
from broker.values.arguments import seconds_of
from broker.values.attempt import Attempt
from broker.worker.session import Session

_log = logging.getLogger(__name__)

#: Renewals within one lease: two may be lost before it runs out.
RENEWALS_PER_LEASE = 3
#: Within this time, in seconds, a worker learns that the server took an attempt back. A worker that renews less often
#: waits between renewals for the marker that says so.
TOLD_WITHIN_S = 2.0
#: For how many seconds the server may be silent beyond the waiting time, or while the heartbeat connects. Then the
#: waiting connection has failed, and the heartbeat renews, because a marker may be lost with the connection.
#: The worker's own time-out does not count here: this connection carries nothing that could be lost, and the next
#: renewal says what it would have said.
_SILENT_S = 3.0
#: If a claim was under way when the marker came, the heartbeat renews once more after this many seconds.
_ONCE_MORE_S = 1.0
#: If the sessions are in several hash slots of a cluster, the heartbeat waits on the slots in turn: this many seconds
#: for one round over all of them.
_ROUND_S = 1.5


def interval_of(given: float | None, lease_s: float | None) -> float | None:
    """Checks the argument `heartbeat_s`."""
    seconds = seconds_of("heartbeat_s", given)
    if seconds is not None and not 0.01 <= seconds <= 86_400:
        raise BadArgument(
            argument="heartbeat_s", given=given, expected="0.01 to 86400 seconds, or None for a third of the lease"
        )
    if seconds is not None and lease_s is not None and seconds > lease_s / 2:
        raise BadArgument(argument="heartbeat_s", given=given, expected=f"at most half of lease_s, {lease_s / 2:g} s")
    return seconds


class Heartbeat:
    """The thread. Between two renewals it waits, on a connection of its own, for the sessions' markers.

    Args:
        transport: renews; used by this thread alongside others.
        open_waiting: opens the transport that waits. It gives up after so many seconds.
        sessions: whose leases to renew.
        on_cancelled: called from the thread for each attempt that the server has taken back.
        on_beat: called from the thread at each renewal.
        interval_s: how long between two renewals, seconds, but at most half of the shortest lease; None: a third of it.
    """

    def __init__(
        self,
        transport: Transport,
        open_waiting: Callable[[float], Transport],
        sessions: Iterable[Session],
        on_cancelled: Callable[[Attempt], None],
        on_beat: Callable[[], None] = lambda: None,
        interval_s: float | None = None,
    ) -> None:
        self._transport, self._open_waiting = transport, open_waiting
        self._sessions, self._on_cancelled, self._on_beat = list(sessions), on_cancelled, on_beat
        self._wanted_s = interval_s
        self._stop, self._joined = threading.Event(), threading.Event()
        self._waiting: Transport | None = None
        self._failing = RepeatedWarning()
        self._failed: dict[Session, BrokerError] = {}  # whose lease the last beat could not renew, and why
        self._failures = 0  # failures of the waiting connection in a row
        self._thread = threading.Thread(target=self._run, name="broker-heartbeat", daemon=True)

    def start(self) -> None:
        """Starts it; the sessions have joined."""
        self._waiting = self._open_waiting(_SILENT_S)
        for session in self._sessions:
            session.on_joined = self._look_again
        self._thread.start()

    def end(self) -> None:
        """Tells the thread to end; a renewal that is under way is finished."""
        self._stop.set()
        self._look_again()
        if self._waiting is not None:
            self._waiting.close()

    def stop(self, timeout_s: float) -> None:
        """Stops the thread and waits for it, at most the given seconds."""
        self.end()
        if self._thread.is_alive() and self._thread is not threading.current_thread():
            self._thread.join(timeout_s)

    def beat(self) -> None:
        """Renews all leases once, in one round trip; raises the first error of those that could not be renewed."""
        for error in self._renewed().values():
            raise error

    def _renewed(self) -> dict[Session, BrokerError]:
        """Renews all leases once. Returns why those of some sessions could not be renewed."""
        renewals = [(session, session.id, call) for session in self._sessions if (call := session.renew_call())]
        # A silent server costs time, which the others' leases must not miss.
        renewals.sort(key=lambda renewal: renewal[0] in self._failed)
        answers = self._transport.execute_each([call for _, _, call in renewals], self._patience_s())
        failed: dict[Session, BrokerError] = {}
        for (session, session_id, _), answer in zip(renewals, answers, strict=True):
            if isinstance(answer, BrokerError) and not isinstance(answer, NoSession | NoRun):
                failed[session] = answer
            for attempt in session.renewed(session_id, answer):
                self._on_cancelled(attempt)
        self._failed = failed
        return failed

    def _patience_s(self) -> float:
        """How long a beat tries again where it serves several runs, seconds: the leases of the others go on."""
        return math.inf if len(self._sessions) == 1 else self._interval_s() / 2

    def _run(self) -> None:
        while not self._stop.is_set():
            told = self._wait(self._interval_s() / (2 if self._failed else 1))
            is_due = not told
            while not self._stop.is_set():
                once_more = told and any(session.is_claiming for session in self._sessions)
                self._try_beat(sweeps=is_due)
                if not once_more:
                    break
                told = self._stop.wait(min(_ONCE_MORE_S, self._interval_s()))  # by then the claim has its answer

    def _try_beat(self, *, sweeps: bool) -> None:
        try:
            self._on_beat()
            failed = self._renewed()
            if sweeps:
                failed = {**self._sweep(), **failed}
            if not failed:
                self._failing.over()
            elif not self._stop.is_set():
                runs = ", ".join(session.run for session in failed)
                self._failing.tell("the lease could not be renewed (run %s): %s", runs, next(iter(failed.values())))
        except Exception:  # noqa: BLE001 - as the next line says
            # The thread must survive every failure: without renewals the server takes all attempts back.
            _log.exception("the heartbeat failed and goes on")

    def _sweep(self) -> dict[Session, BrokerError]:
        """Takes back what is due. If all handlers hang, this worker claims nothing; it may be the only client.

        Returns:
            The errors of the sessions whose runs answered with one.
        """
        there = [session for session in self._sessions if session.id and session not in self._failed]
        calls = [anyone.requeue(session.run, now=session.now) for session in there]
        answers = zip(there, self._transport.execute_each(calls, self._patience_s()), strict=True)
        return {
            session: answer
            for session, answer in answers
            if isinstance(answer, BrokerError) and not isinstance(answer, NoRun)
        }

    def _wait(self, seconds: float) -> bool:
        """Waits until the next renewal is due. Returns True earlier when a renewal may say what was taken back."""
        if seconds < TOLD_WITHIN_S or self._waiting is None:
            self._stop.wait(seconds)
            return False
        until = time.monotonic() + seconds
        while not self._stop.is_set() and (left_s := until - time.monotonic()) > 0:
            self._joined.clear()
            markers = [marker for session in self._sessions if (marker := session.revoked_marker)]
            if not markers:
                self._joined.wait(left_s)
            elif self._marker_came(self._waiting, markers, left_s):
                self._failures = 0
                return True
            elif time.monotonic() >= until:
                self._failures = 0
            elif not self._joined.is_set():  # the connection broke or could not be made
                self._failures += 1
                if self._failures == 1:
                    return True  # a marker may be lost with it
                self._stop.wait(min(2.0**self._failures, until - time.monotonic()))
        return False

    def _marker_came(self, waiting: Transport, markers: list[str], seconds: float) -> bool:
        try:
            return waiting.wait_marker(markers, seconds, _ROUND_S / len(markers)) is not None
        except BrokerError as error:
            _log.debug("the markers of what is taken back cannot be waited for: %s", error)
            return False

    def _look_again(self) -> None:
        """Lets the thread look at its sessions again: one has joined or ended, and so has its marker."""
        self._joined.set()
        if self._waiting is not None:
            self._waiting.interrupt()

    def _interval_s(self) -> float:
        leases = [session.lease_ms for session in self._sessions if session.lease_ms is not None]
        lease_s = min(leases, default=3000) / 1000
        seconds = lease_s / RENEWALS_PER_LEASE if self._wanted_s is None else min(self._wanted_s, lease_s / 2)
        return max(0.01, seconds)
