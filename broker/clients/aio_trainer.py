"""The trainer for asyncio. Its calls mean what those of `broker.Trainer` mean."""

from __future__ import annotations

import asyncio
import functools
import os
from collections.abc import AsyncIterable, AsyncIterator, Callable, Iterable, Mapping
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self, Unpack

from broker.clients.background import in_loop
from broker.clients.base import AsyncClient
from broker.connections import (
    DEFAULT_RETRY_FOR_S,
    DEFAULT_TIMEOUT_S,
    Credentials,
    open_async_transport,
    open_transport,
    url_or_variable,
)
from broker.errors import BadArgument, BrokerError
from broker.protocol import anyone
from broker.trainer.batches import next_batch, read_batch
from broker.trainer.draws import DrawingTask, DrawOnLoop
from broker.trainer.enqueued import Enqueued
from broker.trainer.feeder import feeder_of
from broker.trainer.filter import Accept
from broker.trainer.pulse import Pulse
from broker.trainer.saving import BatchLoop, Saving
from broker.trainer.state import TASKS_PER_CALL, TrainerState
from broker.trainer.wait_log import timed_out
from broker.values.arguments import path_of
from broker.values.config import RunConfig
from broker.values.config_change import ConfigChange, change_fields
from broker.values.hooks import check_hook
from broker.values.policy import Policy
from broker.values.rollout import Rollout
from broker.values.task import Task

if TYPE_CHECKING:
    from broker.inspection.audit import Audit
    from broker.inspection.explanation import Explanation
    from broker.inspection.stats import Stats
    from broker.recovery.checkpoint import Checkpoint
    from broker.recovery.recover import RecoveryReport
    from broker.values.progress import Progress


class Trainer(AsyncClient):
    """The trainer of a run. Use it with `async with`, or call `open` first and `close` last.

    A forked child must open another trainer: it cannot use the trainer that its parent opened.

    Args:
        url: the server; None: the environment variable BROKER_URL.
        run: name of the run.
        config: how the run works; None: the run must exist.
        update: change the stored config in the fields that `config` was given; all others stay as they are.
        attach: only read.
        clock: injected time in milliseconds, for tests.
        credentials: called at each new connection; returns user and password, and perhaps for how many seconds they
            are valid. For tokens that are replaced; it may be a coroutine function. None: the URL's are used.
        timeout_s: how long the server may be silent before the connection counts as lost, in seconds.
        retry_for_s: for how long after its first try a call may be tried again, in seconds; `math.inf`: for ever.
    """

    def __init__(
        self,
        url: str | None = None,
        run: str = "",
        config: RunConfig | None = None,
        *,
        update: bool = False,
        attach: bool = False,
        clock: Callable[[], int] | None = None,
        credentials: Credentials | None = None,
        timeout_s: float = DEFAULT_TIMEOUT_S,
        retry_for_s: float = DEFAULT_RETRY_FOR_S,
    ) -> None:
        url = url_or_variable(url)
        super().__init__(
            open_async_transport(
                url,
                timeout_s=timeout_s,
                retry_for_s=retry_for_s,
                credentials=credentials,
                name=f"broker:{'reader' if attach else 'trainer'}:{run}",
            )
        )
        try:
            self._state = TrainerState(self._transport, run, config, update=update, clock=clock)
        except BaseException:
            self._transport.give_up()
            raise
        self._attached, self._url, self._credentials = attach, url, credentials
        self._pulse: Pulse | None = None
        self._ahead: tuple[int, asyncio.Task[list[Rollout]]] | None = None
        self._feeding: asyncio.Task[None] | None = None

    async def open(self) -> Self:
        """Connects and becomes the run's trainer. Raises NoRun, ConfigMismatch, ServerUnavailable."""
        self._is_open = True
        try:
            await self._run(self._state.refresh() if self._attached else self._state.open())
        except BaseException:
            self._is_open = False
            await self._transport.close()
            raise
        if not self._attached and self._pulse is None:
            loop = asyncio.get_running_loop()
            credentials = None if self._credentials is None else in_loop(self._credentials, loop, DEFAULT_TIMEOUT_S)
            name = f"broker:pulse:{self.run}"
            self._pulse = Pulse(
                self,
                self._state,
                functools.partial(open_transport, self._url, retry_for_s=0.0, credentials=credentials, name=name),
            )
            self._pulse.start()
        return self

    @property
    def run(self) -> str:
        """Name of the run."""
        return self._state.run

    @property
    def version(self) -> int:
        """The current version of the policy, as this trainer knows it."""
        return self._state.version

    @property
    def step_next(self) -> int:
        """The first step whose batch is not sealed, as this trainer knows it."""
        return self._state.step_next

    @property
    def epoch(self) -> str:
        """This trainer's epoch, `<number>.<token>`."""
        return self._state.epoch

    @property
    def policy(self) -> Policy:
        """As `broker.Trainer.policy`."""
        return Policy(version=self._state.version, epoch=self._state.made_by)

    @property
    def config(self) -> RunConfig:
        """The run's stored config."""
        return self._state.config

    @property
    def cursor(self) -> Any:
        """The data loader's position that was stored last, or None."""
        return self._state.cursor

    async def enqueue(
        self, tasks: Task | Iterable[Task] | AsyncIterable[Task], cursor: Any = None, *, again: bool = False
    ) -> Enqueued:
        """As `broker.Trainer.enqueue`; takes an asynchronous iterable, too."""
        self._must_lead("enqueue")
        if not isinstance(tasks, AsyncIterable):
            return await self._run(self._state.enqueue(tasks, cursor, again=again))
        with self._state.arrival(tasks, cursor, again=again) as arrival:
            piece = list[Task]()
            async for task in tasks:
                piece.append(task)
                if len(piece) == TASKS_PER_CALL:
                    await self._run(self._state.add(arrival, piece, is_last=False))
                    piece = []
            await self._run(self._state.add(arrival, piece, is_last=True))
            if cursor is not None:
                self._state.cursor = cursor
        return arrival.enqueued

    async def feed(
        self,
        tasks: Iterable[Task | Iterable[Task]] | AsyncIterable[Task | Iterable[Task]],
        ahead: int | None = None,
        cursor: Any = None,
    ) -> None:
        """As `broker.Trainer.feed`, in a task of the event loop. A plain iterable is read in a thread.

        Takes an asynchronous iterable, too.
        """
        self._must_lead("feed")
        feeder = feeder_of(self._state, tasks, cursor, ahead)
        draw = DrawingTask(aiter(tasks)) if isinstance(tasks, AsyncIterable) else DrawOnLoop(iter(tasks))
        await self._run(feeder.begin())
        self._feeding = asyncio.create_task(self._run(feeder.work(draw)), name="broker-feed")

    async def next_batch(
        self,
        n: int | None = None,
        *,
        accept: Accept | None = None,
        prefetch: bool = False,
        timeout: float | None = None,
        short: bool = False,
    ) -> list[Rollout]:
        """As `broker.Trainer.next_batch`; the filter may be a coroutine function."""
        self._must_lead("next_batch")
        with self._state.last_batch.waiting():
            await self._run(self._state.settle())
            step = self._state.step_to_deliver(prefetch=prefetch)
            batch = await self._from_ahead(step, timeout)
            if batch is None:
                batch = await self._run(next_batch(self._state, step, n, accept, timeout, short=short))
        if prefetch and step == self._state.version and self._state.config.max_staleness != 0:
            self._start_ahead(step + 1, n, accept, short=short)
        self._state.deliver(step, batch)  # last: a caller that is interrupted before it gets this batch again
        return batch

    def batches(
        self,
        n: int | None = None,
        *,
        accept: Accept | None = None,
        prefetch: bool = False,
        timeout: float | None = None,
        short: bool = False,
        checkpoint: str | os.PathLike[str] | None = None,
        every: int | None = None,
        save: Callable[[int], Any] | None = None,
        blob: Callable[[int], Any] | None = None,
    ) -> AsyncIterator[list[Rollout]]:
        """As `broker.Trainer.batches`; `save` and `blob` may be coroutine functions."""
        check_hook("save", save)
        check_hook("blob", blob)
        self._must_lead("batches")
        form = functools.partial(self.next_batch, n, accept=accept, prefetch=prefetch, timeout=timeout, short=short)
        batches = BatchLoop(self, self._transport.ask, form, Saving(checkpoint, every, save), blob)

        async def loop() -> AsyncIterator[list[Rollout]]:
            self._state.deliver_again()
            while (batch := await batches.next()) is not None:
                yield batch

        return loop()

    def _start_ahead(self, step: int, n: int | None, accept: Accept | None, *, short: bool) -> None:
        if self._ahead is None or self._ahead[0] != step:

            async def form() -> list[Rollout]:
                return await self._run(next_batch(self._state, step, n, accept, None, short=short))

            self._ahead = (step, asyncio.create_task(form()))

    async def _from_ahead(self, step: int, timeout: float | None) -> list[Rollout] | None:
        if self._ahead is None or self._ahead[0] != step:
            return None
        task = self._ahead[1]
        try:
            batch = await asyncio.wait_for(asyncio.shield(task), timeout)
        except TimeoutError:
            if not task.done():
                raise await self._run(timed_out(self._state.io, self.run, step, timeout, self._state.now)) from None
            batch = None
        except BrokerError:
            batch = None
        except BaseException:  # the filter's error is raised once, then the batch is formed again
            if task.done():
                self._ahead = None
            raise
        self._ahead = None
        return batch

    async def _drop_ahead(self) -> None:
        """Drops the batch that is formed in the background: a recovery undoes its step."""
        ahead, self._ahead = self._ahead, None
        if ahead is not None:
            ahead[1].cancel()
            await asyncio.gather(ahead[1], return_exceptions=True)

    async def read_batch(self, step: int, rank: int = 0, world: int = 1, timeout: float | None = None) -> list[Rollout]:
        """As `broker.Trainer.read_batch`."""
        return await self._run(read_batch(self._state.io, self._state.run, step, rank, world, timeout))

    async def discard(self, tasks: Iterable[str], reason: str = "discarded") -> dict[str, str]:
        """As `broker.Trainer.discard`."""
        self._must_lead("discard")
        return await self._run(self._state.discard(tasks, reason))

    async def cancel(self, tasks: Iterable[str]) -> dict[str, str]:
        """As `broker.Trainer.cancel`."""
        self._must_lead("cancel")
        return await self._run(self._state.cancel(tasks))

    async def retry(self, tasks: Iterable[str]) -> dict[str, str]:
        """As `broker.Trainer.retry`."""
        self._must_lead("retry")
        return await self._run(self._state.retry(tasks))

    async def advance(self, blob: bytes | None = None, *, allow_empty: bool = False) -> int:
        """As `broker.Trainer.advance`."""
        self._must_lead("advance")
        return await self._run(self._state.advance(blob, allow_empty=allow_empty))

    async def settle(self) -> int:
        """As `broker.Trainer.settle`."""
        self._must_lead("settle")
        return await self._run(self._state.settle())

    async def checkpoint(
        self,
        path: str | os.PathLike[str],
        *,
        full: bool = False,
        progress: Progress | None = None,
        weights: int | None = None,
    ) -> Checkpoint:
        """As `broker.Trainer.checkpoint`; `progress` may be a coroutine function."""
        check_hook("progress", progress)
        self._must_lead("checkpoint")
        from broker.recovery.recover import checkpoint

        made = checkpoint(self._state, path_of("path", path), full=full, progress=progress, weights=weights)
        return await self._run(made)

    async def recover(
        self,
        source: Checkpoint | str | os.PathLike[str] | None = None,
        *,
        version: int | None = None,
        in_flight: str = "keep",
        missing_ok: bool = False,
        allow_loss: bool = False,
        blob: bytes | Callable[[int], Any] | None = None,
        dry_run: bool = False,
        progress: Progress | None = None,
    ) -> RecoveryReport:
        """As `broker.Trainer.recover`; `blob` and `progress` may be coroutine functions."""
        check_hook("progress", progress)
        if not dry_run:
            self._must_lead("recover")
            await self._drop_ahead()
        from broker.recovery.recover import recover_from

        call = recover_from(
            self._state,
            source,
            version,
            in_flight=in_flight,
            missing_ok=missing_ok,
            allow_loss=allow_loss,
            blob=blob,
            dry_run=dry_run,
            progress=progress,
        )
        return await self._run(call)

    async def pause(self) -> str:
        """As `broker.Trainer.pause`."""
        self._must_lead("pause")
        return await self._run(self._state.pause("paused"))

    async def drain(self) -> str:
        """As `broker.Trainer.drain`."""
        self._must_lead("drain")
        return await self._run(self._state.pause("draining"))

    async def resume(self) -> str:
        """As `broker.Trainer.resume`."""
        self._must_lead("resume")
        return await self._run(self._state.resume())

    async def prioritise(self, priorities: Mapping[str, int]) -> dict[str, str]:
        """As `broker.Trainer.prioritise`."""
        self._must_lead("prioritise")
        return await self._run(self._state.prioritise(priorities))

    async def configure(self, **changes: Unpack[ConfigChange]) -> dict[str, Any]:
        """As `broker.Trainer.configure`."""
        self._must_lead("configure")
        return await self._run(self._state.configure(change_fields(changes)))

    async def finish(self) -> int:
        """As `broker.Trainer.finish`."""
        self._must_lead("finish")
        return await self._run(self._state.finish())

    async def requeue(self, limit: int = 100) -> int:
        """As `broker.Trainer.requeue`."""
        return await self._run(self._state.requeue(limit))

    async def stats(self) -> Stats:
        """As `broker.Trainer.stats`."""
        state = self._state
        call = state.refresh() if self._attached else state.io.call(anyone.stats(self.run, now=state.now))
        from broker.inspection.stats import stats_of

        return stats_of(self.run, await self._run(call))

    async def metrics(self) -> dict[str, float]:
        """As `broker.Trainer.metrics`."""
        from broker.inspection.metrics import flat

        return flat(await self.stats(), self._state.last_batch.numbers)

    async def capacity(self) -> int:
        """As `broker.Trainer.capacity`."""
        return (await self.stats()).capacity

    async def explain(self) -> Explanation:
        """As `broker.Trainer.explain`."""
        from broker.inspection.explanation import explain

        return await self._run(explain(self._state.io, self.run, self._state.now))

    async def audit(self, *, repair: bool = False) -> Audit:
        """As `broker.Trainer.audit`."""
        from broker.inspection.audit import Audit, audit

        if repair:
            self._must_lead("audit with repair")
            return Audit(await self._run(self._state.repair()), repaired=True)
        return await self._run(audit(self._state.io, self.run, self._state.now))

    def _must_lead(self, what: str) -> None:
        self._must_be_open()
        if self._attached:
            raise BadArgument(
                argument="attach", given="True", expected=f"a trainer of its own for {what}; attached ones only read"
            )

    async def close(self) -> None:
        """Closes the connections; the run stays as it is. In a forked child the connections stay the parent's."""
        if not self._transport.is_forked:
            await self._drop_ahead()
            self._state.fed.stop()
            if self._pulse is not None:
                self._pulse.stop(0.0)  # it may wait for credentials from this loop
            if self._feeding is not None:
                self._feeding.cancel()
                await asyncio.gather(self._feeding, return_exceptions=True)
        await self._transport.close()

    async def __aenter__(self) -> Self:
        return await self.open()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()
