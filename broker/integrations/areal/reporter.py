"""Tells the server what one process has counted: from a thread of its own, and with every question for capacity."""

from __future__ import annotations

import logging
import secrets
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any

from broker.connections import Transport, open_transport
from broker.errors import BadArgument, BrokerError, NoRun, NoSession
from broker.integrations.areal.owner_counters import OwnerCounters
from broker.protocol import admission
from broker.protocol.admission import Opened, OwnerReport, Standing
from broker.protocol.script_call import Now, ScriptCall
from broker.worker.heartbeat import RENEWALS_PER_LEASE

_log = logging.getLogger(__name__)

#: How often the version provider is asked whether there is a new version, seconds.
_VERSION_EVERY_S = 0.1
#: Pause after a report before the next one, seconds: hooks that come in a burst share reports.
_PAUSE_S = 0.002
#: Pauses while the server does not answer: the first and the longest, seconds.
_FIRST_RETRY_S, _LONGEST_RETRY_S = 0.05, 1.0
#: How often a report is tried under a new id before it counts as failed.
_RENAMES = 2

_FORKED = (
    "this StalenessManager was made before a fork, and what it counts belongs to that process: make another one in the "
    "child"
)


class Reporter:
    """One owner's connection to its run.

    Args:
        url: the server.
        run: name of the run.
        name: the owner's name; its id has a random part besides.
        config: fields of the run's config.
        share: rollouts of each batch that this process trains; None: as many as others that say nothing.
        lease_ms: time without a report after which the owner counts as dead, in milliseconds.
        counters: what it has counted.
        version: asks the provider.
        on_news: called from the thread, without a lock held, when a slot may be free or there is a new version;
            False: call it again soon.
        clock: injected time in milliseconds, or None.
    """

    def __init__(
        self,
        url: str,
        run: str,
        *,
        name: str,
        config: Mapping[str, str],
        share: int | None,
        lease_ms: int,
        counters: OwnerCounters,
        version: Callable[[], int],
        on_news: Callable[[], bool],
        clock: Callable[[], int] | None,
    ) -> None:
        self._run, self._name, self._config, self._lease_ms = run, name, config, lease_ms
        self._share = share
        self._counters, self._version, self._on_news, self._clock = counters, version, on_news, clock
        self._url = url
        # Not patient: what cannot be sent now is sent by the thread, and a question for capacity must not hang. But a
        # connection that the server closed meanwhile fails at once, and another one is tried.
        self.transport: Transport = open_transport(url, timeout_s=2.0, retry_for_s=0.1)
        self.owner = ""
        self._turn = threading.Lock()  # one report at a time: their numbers arrive in order
        self._poke, self._stop = threading.Event(), threading.Event()
        self._look = self._news = False
        self._down_since: float | None = None
        self._last = Standing(False, 0, 0, 0, 0, 0, 0, 0)
        self._others = (0, 0, 0, 0)
        self._told_version = -1
        self._refused = False
        self._thread = threading.Thread(target=self._work, name="broker-areal-reporter", daemon=True)

    def open(self, *, update: bool) -> Opened:
        """Joins the run and starts the thread. Raises ConfigMismatch, ServerUnavailable and others."""
        self.owner = self._new_id()
        call = admission.open_owner(
            self._run, self.owner, self._lease_ms, secrets.token_hex(8), self._config, self._counters.counted,
            share=self._share, version=self._looked_up(), update=update, now=self._now,
        )  # fmt: skip
        with open_transport(self._url) as patient:
            (opened,) = patient.execute([call])
        if isinstance(opened, BrokerError):
            raise opened
        self._last = Standing(False, 0, 0, opened.accepted, 0, 0, 0, opened.version)
        self._thread.start()
        return opened

    def poke(self, *, look: bool = False, news: bool = False) -> None:
        """Wakes the thread, which reports changes; look: it reports in any case; news: it calls `on_news`."""
        if self.transport.is_forked:  # the thread is the parent's; one of its threads may hold the lock in the event
            return
        self._look, self._news = self._look or look, self._news or news
        self._poke.set()

    def refuse_forked(self) -> None:
        """Raises BadArgument in a forked child."""
        if self.transport.is_forked:
            raise BadArgument(problem=_FORKED)

    @property
    def last(self) -> Standing:
        """What the newest answer said."""
        return self._last

    def numbers(self) -> tuple[int, int, int, int]:
        """Accepted, enqueued, rejected, running, as last heard of the others and as counted here."""
        mine = self._counters.numbers()
        accepted, enqueued, rejected, running = (own + other for own, other in zip(mine, self._others, strict=True))
        return accepted, enqueued, rejected, running

    def check_process(self) -> None:
        """Raises BadArgument in a forked child, which would tell under the parent's name and numbers."""
        if self.transport.is_forked:
            raise BadArgument(problem=_FORKED)

    def tell(self, version: int, *, asks: bool = False, thread: int | None = None) -> Standing | None:
        """Sends a report now; None if the server does not answer, which is logged.

        While it is known not to answer only the reporter's own thread tries.

        Args:
            version: the provider's.
            asks: for one more slot.
            thread: whom it is promised to; None: this one.

        Raises:
            BadArgument: in a forked child.
        """
        self.check_process()
        mine = threading.current_thread() is self._thread
        with self._turn:
            if self._stop.is_set() or (self._down_since is not None and not mine):
                return None
            try:
                standing = self._exchange(version, asks, threading.get_ident() if thread is None else thread)
            except BrokerError as error:
                self._failed(error)
                return None
            down_since, self._down_since = self._down_since, None
            if asks:
                self._refused = not standing.granted
            elif self._refused and standing.spare > 0:
                self._refused, self._news = False, True
        if down_since is not None:
            self._news = True
            _log.warning("run %s is counted again, after %.1f s", self._run, time.monotonic() - down_since)
        if self._news and not mine:
            self._poke.set()
        return standing

    def close(self) -> None:
        """Ends the thread, then the owner: what it has running and enqueued is given back."""
        self._stop.set()
        self._poke.set()
        if self._thread.is_alive():
            self._thread.join(timeout=5.0)
        if not self.owner:
            return self.transport.close()
        with self._turn:
            report, _ = self._counters.report(self._told_version, asks=False, thread=0)
            left = self._execute(admission.leave(self._run, self.owner, self._lease_ms, report, now=self._now))
            if isinstance(left, BrokerError) and not isinstance(left, NoRun):
                _log.warning("what %s was running is given back only when its lease runs out: %s", self.owner, left)
        return self.transport.close()

    # -- one report ------------------------------------------------------------------------------------------------

    def _exchange(self, version: int, asks: bool, thread: int) -> Standing:
        error: BrokerError | None = None
        for _ in range(1 + _RENAMES):
            report, mark = self._counters.report(version, asks=asks, thread=thread)
            answer = self._execute(admission.report(self._run, self.owner, self._lease_ms, report, now=self._now))
            if isinstance(answer, Standing):
                self._counters.settle(report, mark, granted=answer.granted, thread=thread)
                self._heard(report, answer)
                return answer
            if not isinstance(answer, NoSession | NoRun):
                raise answer
            error = answer
            self._join_anew(answer, version)
        assert error is not None
        raise error

    def _heard(self, report: OwnerReport, answer: Standing) -> None:
        self._last, self._told_version = answer, report.version
        self._others = (
            answer.accepted - report.accepted,
            answer.enqueued - report.enqueued,
            answer.rejected - report.rejected,
            answer.running - report.running,
        )

    def _join_anew(self, why: NoSession | NoRun, version: int) -> None:
        """The server has forgotten this owner, or the whole run.

        A run that is gone begins as if recovered to the version it had, so that its capacity is not that of all
        versions at once.
        """
        lost_version = max(version, self._last.version) if isinstance(why, NoRun) else -1
        _log.error("%s joins run %s anew, what it has running is counted on: %s", self.owner, self._run, why)
        owner = self._new_id()
        call = admission.open_owner(
            self._run, owner, self._lease_ms, secrets.token_hex(8), self._config, self._counters.counted,
            share=self._share, version=version, lost_version=lost_version, now=self._now,
        )  # fmt: skip
        opened = self._execute(call)
        if isinstance(opened, BrokerError):
            raise opened
        self.owner = owner
        self._counters.renamed()
        self.transport.interrupt()  # the listener waits under the old id

    def _execute(self, call: ScriptCall[Any]) -> Any:
        try:
            return self.transport.execute([call])[0]
        except BrokerError as error:
            return error

    def _failed(self, error: BrokerError) -> None:
        if self._down_since is None:
            self._down_since = time.monotonic()
            _log.warning(
                "run %s: what happens now is reported once the server answers, capacity counts as 0: %s",
                self._run,
                error,
            )
        self._poke.set()

    def _new_id(self) -> str:
        return f"{self._name}~{secrets.token_hex(6)}"

    @property
    def _now(self) -> Now:
        return "" if self._clock is None else self._clock()

    # -- the thread ------------------------------------------------------------------------------------------------

    def _work(self) -> None:
        beat_s = self._lease_ms / 1000 / RENEWALS_PER_LEASE
        next_beat, retry_s = 0.0, _FIRST_RETRY_S
        while not self._stop.is_set():
            try:
                self._poke.wait(self._wait_s(next_beat))
                self._poke.clear()
                version = self._looked_up()
                changed = version != self._told_version
                look, self._look = self._look, False
                if not (changed or look or self._counters.to_tell or time.monotonic() >= next_beat):
                    self._pass_on_news()
                    continue
                next_beat = time.monotonic() + beat_s
                if self.tell(version) is None:
                    next_beat = 0.0
                    self._stop.wait(retry_s)
                    retry_s = min(2 * retry_s, _LONGEST_RETRY_S)
                    continue
                retry_s = _FIRST_RETRY_S
                self._news = self._news or changed
                self._pass_on_news()
                self._stop.wait(_PAUSE_S)
            except Exception:  # noqa: BLE001 - as the next line says
                # The thread must outlive any single failure, or nothing of this process would be counted any more.
                _log.exception("reporting to run %s failed and goes on", self._run)
                self._stop.wait(_LONGEST_RETRY_S)

    # Only from here: who asks for capacity may hold the dispatcher's lock.
    def _pass_on_news(self) -> None:
        if self._news:
            self._news = False
            self._news = not self._on_news() or self._news

    def _wait_s(self, next_beat: float) -> float:
        lapses_in_s = self._counters.lapses_in_s()
        until_beat_s = max(0.0, next_beat - time.monotonic())
        return min(until_beat_s, _VERSION_EVERY_S, _VERSION_EVERY_S if lapses_in_s is None else lapses_in_s)

    def _looked_up(self) -> int:
        try:
            return self._version()
        except Exception as error:  # noqa: BLE001 - whatever the user's provider raises
            _log.warning("the version of run %s cannot be looked up: %r", self._run, error)
            return self._told_version
