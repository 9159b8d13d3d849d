"""AReaL's staleness manager, counted in Redis by all processes of a run together."""

from __future__ import annotations

import asyncio
import atexit
import logging
import os
import re
import socket
import threading
from collections.abc import Callable
from dataclasses import dataclass
from types import TracebackType
from typing import Protocol, Self

from broker.errors import BadArgument
from broker.integrations.areal.asker import Asker
from broker.integrations.areal.listener import Listener
from broker.integrations.areal.owner_counters import OwnerCounters
from broker.integrations.areal.reporter import Reporter
from broker.integrations.areal.versions import Versions
from broker.protocol import keys
from broker.protocol.admission import Standing
from broker.values.config import RunConfig
from broker.values.hooks import check_plain_hook
from broker.values.names import MAX_NAME_CHARS, check_name

_log = logging.getLogger(__name__)

#: Time without a report after which a process counts as dead, in seconds.
DEFAULT_LEASE_S = 15.0
#: Longest wait for the server where a dispatcher is attached, which holds its lock meanwhile, in seconds.
ANSWER_S = 0.25


class VersionProvider(Protocol):
    """What knows the version of the weights: AReaL's inference engine or controller."""

    def get_version(self) -> int:
        """The current version."""
        ...


@dataclass
class RolloutStat:
    """Rollouts of the whole run, by what became of them; the fields of AReaL's class of that name."""

    accepted: int = 0
    enqueued: int = 0
    rejected: int = 0
    running: int = 0


class StalenessManager:
    """Bounds the rollouts that all processes of a run together have running and accepted. From any thread.

    Surface and semantics are those of AReaL's own class, which counts in one process. Create it after forking, one in
    each process.

    Args:
        version_provider: knows the version.
        max_concurrent_rollouts: rollouts that may run at once in all processes together; at least 1 is allowed.
        consumer_batch_size: rollouts that one training step consumes; counts as at least 1.
        max_staleness: steps that a rollout may be behind the one that trains it.
        url: the server.
        run: name of the run; all processes that count together give the same.
        share: rollouts of each batch that this process trains, where processes step together: what it needs for the
            step at hand is kept for it. 0: it takes only what no other needs. None: the batch is split among the
            processes that say nothing.
        owner: name of this process, shown to people; None: host and process id.
        lease_s: time without a sign of life after which what this process has running and enqueued is given back,
            in seconds.
        update: change the three numbers of a run that is stored with others, instead of raising ConfigMismatch.
        join_now: False: `join` does it later, for a process of which it is not known yet whether it starts rollouts.
        clock: injected time in milliseconds, for tests.

    Raises:
        BadArgument, BadName: an argument is out of range.
        ConfigMismatch: the run is stored with other numbers, or is a run of tasks.
        ServerUnavailable: no answer.
    """

    def __init__(
        self,
        version_provider: VersionProvider,
        max_concurrent_rollouts: int,
        consumer_batch_size: int,
        max_staleness: int,
        *,
        url: str,
        run: str,
        share: int | None = None,
        owner: str | None = None,
        lease_s: float = DEFAULT_LEASE_S,
        update: bool = False,
        join_now: bool = True,
        clock: Callable[[], int] | None = None,
    ) -> None:
        check_plain_hook("clock", clock)
        if not 0.001 <= lease_s <= 86_400:
            raise BadArgument(argument="lease_s", given=lease_s, expected="0.001 to 86400 seconds")
        if share is not None and not 0 <= share <= max(1, consumer_batch_size):
            raise BadArgument(argument="share", given=share, expected="None, or 0 to consumer_batch_size")
        self.version_provider = version_provider
        self._versions = Versions(version_provider)
        self._max_concurrent_rollouts = max_concurrent_rollouts
        self._consumer_batch_size = consumer_batch_size
        self._max_staleness = max_staleness
        self.run = check_name("run", run)
        self.owner = check_name("worker", owner if owner is not None else _default_owner())
        config = RunConfig(
            consumer_batch_size=max(0, consumer_batch_size),
            max_staleness=max_staleness,
            max_concurrent_rollouts=max(1, max_concurrent_rollouts),
        )
        self._counters = OwnerCounters()
        self._reporter = Reporter(
            url, self.run, name=self.owner, config=config.to_fields(), share=share, lease_ms=int(lease_s * 1000),
            counters=self._counters, version=self._version, on_news=self._wake, clock=clock,
        )  # fmt: skip
        self._listener = Listener(self._reporter.transport, self._markers, self._on_marker)
        self._asker = Asker(self._reporter.tell, self._counters.has_promise, lambda: self._reporter.poke(news=True))
        #: For code that holds AReaL's while it reads `rollout_stat`; guards nothing here.
        self.lock = threading.Lock()
        self._joining, self._closing = threading.Lock(), threading.Lock()
        self._share, self._update = share, update
        self._joined = self._closed = self._warned = self._told_of_share = False
        self._pid = os.getpid()
        if join_now:
            try:
                self.join()
            except BaseException:
                self._reporter.transport.close()
                raise

    # -- AReaL's surface -------------------------------------------------------------------------------------------

    @property
    def max_concurrent_rollouts(self) -> int:
        """As given."""
        return self._max_concurrent_rollouts

    @property
    def consumer_batch_size(self) -> int:
        """As given."""
        return self._consumer_batch_size

    @property
    def max_staleness(self) -> int:
        """As given."""
        return self._max_staleness

    def get_pending_limit(self) -> int:
        """How many rollouts may wait in this process: (max_staleness + 1) * consumer_batch_size, or of its share."""
        return (self._max_staleness + 1) * (self._share or self._consumer_batch_size)

    def get_capacity(self) -> int:
        """How many rollouts may be started, one round trip.

        With C = max(1, max_concurrent_rollouts), B = max(1, consumer_batch_size), S = max_staleness:

            min(C - running, (S + version + 1) * B - (accepted + running))

        over all processes. A positive answer promises one slot to this thread, for a second: the rollout that it
        starts next is within the bound, however many processes ask at once. Where the formula is positive but every
        slot is promised to others the answer is 0.

        Where a dispatcher is attached, which holds its lock meanwhile, it waits for a quarter of a second at most:
        the dispatcher is woken when the answer comes.

        Returns:
            The capacity, negative where more runs than may; 0 or less while the server does not answer, and while the
            run is paused or recovered.
        """
        if not self._joined:
            return self._capacity_alone()
        version = self._version()
        # A dispatcher that has nothing to start would only keep a slot from others.
        asks = self._counters.waits or not self._listener.attached
        standing = self._ask(version, asks=asks)
        if standing is None:
            return min(0, self._reporter.last.capacity)
        self._warn_of_lag(version, standing.version)
        self._warn_of_share(standing)
        return standing.capacity if standing.granted or not asks else min(0, standing.capacity)

    def on_version_recovered(self, version: int) -> None:
        """Training goes on from a checkpoint of this version: accepted becomes version * B, running stays.

        Call it before the first rollout is submitted, in one process or in each.

        Raises:
            BadArgument: the version is negative.
        """
        if version < 0:
            raise BadArgument(argument="version", given=version, expected="0 or more")
        self._counters.recovered(version)
        self._reporter.poke()

    def on_rollout_enqueued(self) -> None:
        """A rollout waits to be started. Never blocks, never raises."""
        self._counters.enqueued()
        self._reporter.poke()

    def on_rollout_submitted(self) -> None:
        """A rollout that waited was started. Never blocks, never raises."""
        self._counters.submitted()
        self._reporter.poke()

    def on_rollout_accepted(self) -> None:
        """A rollout ended and will be trained on. Never blocks, never raises."""
        self._counters.accepted()
        self._reporter.poke()

    def on_rollout_rejected(self) -> None:
        """A rollout ended and will not. Never blocks, never raises."""
        self._counters.rejected()
        self._reporter.poke()

    def get_stats(self) -> RolloutStat:
        """The numbers of all processes together: one round trip.

        On an event loop, and while the server does not answer, none: then the others' numbers are those last heard.
        """
        if _on_event_loop():
            self._reporter.poke(look=True)
        elif self._joined:
            self._ask(self._version(), asks=False)
        return self.rollout_stat

    @property
    def rollout_stat(self) -> RolloutStat:
        """The numbers of all processes together, the others' as last heard; a copy. Never blocks."""
        return RolloutStat(*(self._reporter.numbers() if self._joined else self._counters.alone(self._batch_alone)))

    # -- beyond it -------------------------------------------------------------------------------------------------

    def join(self) -> None:
        """Becomes one of the run's processes, if it is none yet: done by the constructor, unless join_now is False.

        What was counted and announced before counts. Until then the share of this process is kept for it as for any
        that has not joined, and it may start nothing.

        Raises:
            ConfigMismatch: the run is stored with other numbers, or is a run of tasks.
            ServerUnavailable: no answer.
        """
        with self._joining:
            if self._joined or self._closed:
                return
            self._reporter.open(update=self._update)
            self._joined = True
        self._reporter.transport.interrupt()  # the listener may wait under no name yet
        atexit.register(self.close)

    @property
    def joined(self) -> bool:
        """Whether this process is one of the run's."""
        return self._joined

    @property
    def closed(self) -> bool:
        """Whether it was closed."""
        return self._closed

    def attach(self, dispatcher: object) -> None:
        """Wakes a dispatcher when another process frees capacity, or there is a new version.

        Args:
            dispatcher: AReaL's `BatchTaskDispatcher`, or what has one as its `dispatcher` (`WorkflowExecutor`,
                `RolloutController`).

        Raises:
            BadArgument: it is neither, or this is a forked child.
        """
        self._reporter.refuse_forked()
        self._listener.attach(dispatcher)

    def flush(self) -> bool:
        """Reports what the hooks counted and waits for the answer; False: the server does not answer."""
        return self._joined and self._reporter.tell(self._version()) is not None

    @property
    def unreported(self) -> int:
        """How many hooks' calls the server has not confirmed."""
        return self._counters.unreported

    def close(self) -> None:
        """Ends the threads and gives back what this process has running and enqueued. May be called twice."""
        if self._pid != os.getpid():  # looked at first: a thread of the parent may hold the lock
            return
        with self._closing:
            if self._closed:
                return
            self._closed = True
        atexit.unregister(self.close)
        self._asker.stop()
        self._listener.stop()
        self._reporter.close()
        self._listener.join()
        self._asker.join()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    # -- within ----------------------------------------------------------------------------------------------------

    @property
    def _batch_alone(self) -> int:
        return max(1, self._share or self._consumer_batch_size)

    # Of what this process has counted by itself, before it joins.
    def _capacity_alone(self) -> int:
        accepted, _, _, running = self._counters.alone(self._batch_alone)
        by_staleness = (self._max_staleness + self._version() + 1) * self._batch_alone - accepted - running
        return min(max(1, self._max_concurrent_rollouts) - running, by_staleness)

    def _ask(self, version: int, *, asks: bool) -> Standing | None:
        if not self._listener.attached:
            return self._reporter.tell(version, asks=asks)
        self._reporter.check_process()
        return self._asker.ask(version, asks=asks, within_s=ANSWER_S)

    def _version(self) -> int:
        return self._versions.now()

    def _wake(self) -> bool:
        return self._listener.notify()

    def _markers(self) -> list[str]:
        # Operators' calls (resume, recover) arm `wake`. The owner that gets this marker reports, and its report wakes
        # the other owners.
        return [keys.wake_owner(self.run, self._reporter.owner), keys.wake(self.run)]

    def _on_marker(self, marker: str) -> None:
        shared = marker == keys.wake(self.run)
        busy = not self._listener.notify()
        if shared or busy:
            self._reporter.poke(look=shared, news=True)

    def _warn_of_lag(self, version: int, run_version: int) -> None:
        if not self._warned and version > 0 and version + self._max_staleness + 1 < run_version:
            self._warned = True
            _log.warning(
                "run %s is at version %d, this process at %d: if training starts over, call on_version_recovered, "
                "or give it a run of its own",
                self.run,
                run_version,
                version,
            )

    def _warn_of_share(self, standing: Standing) -> None:
        """Once for each time that it begins to be so: others share the bound, or have what this process was given."""
        if self._share is None:
            unsaid, problem = standing.owners > 1, "a share that nobody said"
            remedy = (
                "if they train each step together, give each its part of a batch as share; if not, as training and "
                "evaluation do not, give each a run of its own"
            )
        else:
            unsaid, problem = standing.share < self._share, f"of the {self._share} that it was given"
            remedy = "the rest is its own when the lease of a process before it ends; else the shares are too large"
        if unsaid and not self._told_of_share:
            _log.warning(
                "%d processes share the bound of run %s, and %d of %d rollouts of a step are kept for this one, %s: %s",
                standing.owners, self.run, standing.share, max(1, self._consumer_batch_size), problem, remedy,
            )  # fmt: skip
        self._told_of_share = unsaid


def _default_owner() -> str:
    host = re.sub(r"[^A-Za-z0-9._-]", "-", socket.gethostname())
    return f"{host}-{os.getpid()}"[-MAX_NAME_CHARS:]


def _on_event_loop() -> bool:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True
