"""Claims for workers without sessions, and notes which client was given which attempt.

A worker that speaks HTTP sends no heartbeats. Its attempts are therefore held by sessions that are not renewed. A
session takes claims for a short while after its first claim. Then it runs out, with all attempts that were not
submitted. No attempt depends on the gateway that gave it: if that gateway dies, the worker submits through another.
"""

from __future__ import annotations

import asyncio
import secrets
import time
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from broker.connections import AsyncTransport
from broker.errors import BrokerError, NoSession
from broker.protocol import anyone, keys, task_row, worker
from broker.protocol.ids import attempt_id
from broker.protocol.script_call import ScriptCall
from broker.protocol.task_row import TaskRow
from broker.protocol.worker import Claimed, Granted, Joined
from broker.values.config import RunConfig

#: How long a claimed task may take if neither the run nor the gateway says so, milliseconds: agent-lightning's default.
DEFAULT_TASK_TIMEOUT_MS = 300_000
#: Longest lease that the broker gives, milliseconds.
_LONGEST_LEASE_MS = 86_400_000
#: A session takes claims for this part of its lease, and at most for this long, milliseconds.
_WINDOW_PART, _LONGEST_WINDOW_MS = 0.1, 30_000
#: How long the client of an attempt is remembered: this many times the task's time-out, and at least this long.
_REMEMBERED_TIMEOUTS, _REMEMBERED_AT_LEAST_MS = 4, 3_600_000
#: Requests for a task that share one claim.
_MOST_TOGETHER = 32
#: Begins the field of the first rollout written for an attempt, beside the attempt's client. No attempt id begins so.
_WRITTEN = "="


@dataclass(frozen=True, slots=True)
class Handed:
    """One attempt handed out: the grant, and when, in milliseconds of the broker's clock."""

    grant: Granted
    at_ms: int


@dataclass(frozen=True, slots=True)
class Timeouts:
    """Times of a gateway, in milliseconds.

    Args:
        task_ms: time-out of a claimed task.
        lease_ms: lease of the sessions.
        window_ms: how long a session takes claims after its first claim that got an attempt.
    """

    task_ms: int
    lease_ms: int
    window_ms: int

    @classmethod
    def of(cls, config: RunConfig, task_timeout_ms: int | None) -> Timeouts:
        """The run's attempt_timeout_ms is kept exactly; a shorter limit of the gateway's is kept by its sessions."""
        attempt_ms = config.attempt_timeout_ms
        if attempt_ms and (task_timeout_ms is None or task_timeout_ms >= attempt_ms):
            window = max(100, min(_LONGEST_WINDOW_MS, int(attempt_ms * _WINDOW_PART)))
            return cls(attempt_ms, min(_LONGEST_LEASE_MS, attempt_ms + window + 1000), window)
        task_ms = min(_LONGEST_LEASE_MS, task_timeout_ms or DEFAULT_TASK_TIMEOUT_MS)
        return cls(task_ms, task_ms, max(1, min(_LONGEST_WINDOW_MS, int(task_ms * _WINDOW_PART))))


class Claims:
    """The claims of one gateway.

    Args:
        transport: the server.
        run: name of the run.
        name: name of the gateway, shown to people as the worker.
        task_timeout_ms: time-out of a claimed task; None: the run's attempt_timeout_ms, or else 5 minutes.
        monotonic: the clock that ends a session's window, seconds.

    Attributes:
        config: the run's config when the newest session started.
    """

    def __init__(
        self,
        transport: AsyncTransport,
        run: str,
        name: str,
        task_timeout_ms: int | None,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._transport, self._run, self._name = transport, run, name
        self._task_timeout_ms, self._monotonic = task_timeout_ms, monotonic
        self.config = RunConfig(consumer_batch_size=1)
        self._limits = Timeouts.of(self.config, task_timeout_ms)
        self._joined: Joined | None = None
        self._until: float | None = None  # when the session takes no more claims; None: it has no attempt yet
        self._number = 0
        self._waiting: deque[asyncio.Future[Handed | None]] = deque()
        self._claiming: asyncio.Task[None] | None = None

    async def refresh(self) -> None:
        """Reads the run's config again. Raises NoRun, ServerUnavailable."""
        self.config = RunConfig.from_fields(await self.execute(anyone.stats(self._run)))
        self._limits = Timeouts.of(self.config, self._task_timeout_ms)

    async def next(self) -> Handed | None:
        """One attempt; None when there is no work. Raises NoRun, ServerUnavailable.

        Requests that come while a claim is under way share the next one.
        """
        turn: asyncio.Future[Handed | None] = asyncio.get_running_loop().create_future()
        self._waiting.append(turn)
        if self._claiming is None:
            self._claiming = asyncio.create_task(self._claim_for_all())
        return await turn

    async def _claim_for_all(self) -> None:
        """Claims until nobody waits. Claims of one session are numbered, and must arrive in that order."""
        try:
            while self._waiting:
                turns = [self._waiting.popleft() for _ in range(min(len(self._waiting), _MOST_TOGETHER))]
                turns = [turn for turn in turns if not turn.done()]  # its request was given up
                if turns:
                    await self._claim_for(turns)
        finally:
            self._claiming = None

    async def _claim_for(self, turns: Sequence[asyncio.Future[Handed | None]]) -> None:
        try:
            claimed = await self._claimed(len(turns))
        except Exception as error:  # noqa: BLE001 - it is told to those who asked
            for turn in turns:
                if not turn.done():
                    turn.set_exception(error)
            return
        granted = deque(claimed.granted if claimed is not None else ())
        for turn in turns:
            if not turn.done():
                turn.set_result(Handed(granted.popleft(), claimed.now) if claimed is not None and granted else None)
        if granted:  # requests were given up meanwhile
            with suppress(BrokerError):
                await self.execute(worker.release(self._run, [grant.attempt_id for grant in granted]))

    async def _claimed(self, wanted: int) -> Claimed | None:
        for _ in range(2):
            session = await self._session()
            self._number += 1
            try:
                claimed: Claimed = await self.execute(
                    worker.claim(self._run, session, self._number, wanted, secrets.token_hex(4))
                )
            except NoSession:  # the session ran out, or the server lost it
                self._joined = None
                continue
            if claimed.granted and self._until is None:
                self._until = self._monotonic() + self._limits.window_ms / 1000
            return claimed
        return None

    async def _session(self) -> str:
        if self._joined is None or (self._until is not None and self._monotonic() >= self._until):
            await self.refresh()
            self._joined = await self.execute(
                worker.join(self._run, self._name, secrets.token_hex(6), self._limits.lease_ms)
            )
            self._number, self._until = 0, None
        assert self._joined is not None, "joined just now"
        return self._joined.session

    async def remember(self, slot: str, attempt_id: str, client: str) -> None:
        """Notes that a client was given an attempt of a slot (`<task>#<slot>`), for all gateways."""
        name = _given_key(self._run, slot)
        await self._transport.pipeline([("HSET", name, attempt_id, client), ("PEXPIRE", name, self._remembered_ms)])

    async def row_and_given(self, task: str, slot: str) -> tuple[TaskRow | None, dict[str, str]]:
        """The broker's facts about a task, and the attempts of a slot that gateways gave out, with their clients.

        The attempts are in the order of their claims.
        """
        reads = task_row.task(self._run, task).after(("HGETALL", _given_key(self._run, slot)))
        (flat,), row = await self.execute(reads)
        parts: list[str] = [part.decode() for part in flat]
        pairs = [pair for pair in zip(parts[::2], parts[1::2], strict=True) if not pair[0].startswith(_WRITTEN)]
        return row, dict(sorted(pairs, key=lambda pair: attempt_id(pair[0]).claims))

    async def first_writer(self, slot: str, attempt_id: str, digest: str) -> bool:
        """Whether this is the first rollout that any client has written for an attempt.

        Args:
            slot: `<task>#<slot>`.
            attempt_id: the attempt.
            digest: of the rollout; the same rollout may be written again.
        """
        name, field = _given_key(self._run, slot), _WRITTEN + attempt_id
        answers = await self._transport.pipeline(
            [("HSETNX", name, field, digest), ("HGET", name, field), ("PEXPIRE", name, self._remembered_ms)]
        )
        return answers[1] == digest.encode()

    @property
    def _remembered_ms(self) -> int:
        return max(_REMEMBERED_AT_LEAST_MS, _REMEMBERED_TIMEOUTS * self._limits.task_ms)

    async def execute(self, call: ScriptCall[Any]) -> Any:
        """One script call; raises its error."""
        value = (await self._transport.execute([call]))[0]
        if isinstance(value, BrokerError):
            raise value
        return value


def _given_key(run: str, slot: str) -> str:
    return keys.key(run, f"gateway:given:{slot}")
