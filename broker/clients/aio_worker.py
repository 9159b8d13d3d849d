"""The worker for asyncio. Its calls mean what those of `broker.Worker` mean."""

from __future__ import annotations

import asyncio
import functools
import logging
import os
import threading
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Coroutine, Iterable, Sequence
from contextlib import aclosing, asynccontextmanager, nullcontext
from types import TracebackType
from typing import Any, Self, TypeVar

from broker.clients.background import in_loop, stack_of
from broker.clients.base import AsyncClient
from broker.connections import (
    DEFAULT_RETRY_FOR_S,
    DEFAULT_TIMEOUT_S,
    END_WITHIN_S,
    HEARTBEAT_ENDS_WITHIN_S,
    Credentials,
    Transport,
    open_async_transport,
    open_transport,
    url_or_variable,
)
from broker.errors import BadArgument, BrokerError
from broker.protocol.worker import FailureKind
from broker.values.attempt import Attempt
from broker.values.policy import Policy
from broker.worker.claims_and_results import WorkerCalls, number_wanted
from broker.worker.grace import grace_of, tell_begun
from broker.worker.grouped_submits import GroupedSubmits
from broker.worker.handler_outcome import check_async_handler, judged
from broker.worker.heartbeat import Heartbeat, interval_of
from broker.worker.loop_exit import WORKED_ON, exit_of_loop
from broker.worker.loop_signals import grace_at_sigterm, stopped_by_signals
from broker.worker.loop_watch import LoopWatch
from broker.worker.session import Submitted
from broker.worker.state import LoadWeights, Policies, StaleWeights, WorkerState, default_name
from broker.worker.task_runner import Handler, TaskRunner
from broker.worker.time_to_end import TimeToEnd

_log = logging.getLogger(__name__)
T = TypeVar("T")


class Worker(AsyncClient):
    """A worker. Use it with `async with`, or call `open` first and `close` last.

    A thread with its own connection renews the lease, so that a busy event loop does not lose it. A forked child
    must open another worker: it cannot use the worker that its parent opened.

    Args:
        url: the server; None: the environment variable BROKER_URL.
        run: name of the run, or several in order of preference.
        name: shown to people; None: host and process id.
        lease_s: lease asked for, in seconds; None: the run's.
        policy: as `broker.Worker`.
        on_weights_stale: as `broker.Worker`; may be a coroutine function.
        load_weights: as `broker.Worker`; may be a coroutine function.
        weights_cache: as `broker.Worker`.
        clock: injected time in milliseconds, for tests.
        heartbeat: False: the caller renews the lease itself, with `renew`.
        wait_for_run_s: as `broker.Worker`; `open` waits.
        heartbeat_s: as `broker.Worker`.
        grace_s: for how many seconds `run` and loops may finish what is held after SIGTERM. A second one stops `run`,
            and ends the process (exit code 143) during a loop, as the grace's end does.
        credentials: called at each new connection; returns user and password, and perhaps for how many seconds they
            are valid. For tokens that are replaced; it may be a coroutine function. None: the URL's are used.
        timeout_s: how long the server may be silent before the connection counts as lost, in seconds.
        retry_for_s: for how long after its first try a call may be tried again, in seconds; `math.inf`: for ever.
    """

    def __init__(
        self,
        url: str | None = None,
        run: str | Sequence[str] = "",
        *,
        name: str | None = None,
        lease_s: float | None = None,
        policy: Policies = None,
        on_weights_stale: StaleWeights | None = None,
        load_weights: LoadWeights | None = None,
        weights_cache: str | os.PathLike[str] | None = None,
        clock: Callable[[], int] | None = None,
        heartbeat: bool = True,
        wait_for_run_s: float | None = None,
        heartbeat_s: float | None = None,
        grace_s: float = 0.0,
        credentials: Credentials | None = None,
        timeout_s: float = DEFAULT_TIMEOUT_S,
        retry_for_s: float = DEFAULT_RETRY_FOR_S,
    ) -> None:
        self._grace_s, self._heartbeat_s = grace_of(grace_s), interval_of(heartbeat_s, lease_s)
        name = default_name() if name is None else name
        url = url_or_variable(url)
        super().__init__(
            open_async_transport(
                url,
                timeout_s=timeout_s,
                retry_for_s=retry_for_s,
                credentials=credentials,
                name=f"broker:worker:{name}",
            )
        )
        try:
            self._state = WorkerState(
                self._transport,
                run,
                name=name,
                lease_s=lease_s,
                policy=policy,
                on_weights_stale=on_weights_stale,
                load_weights=load_weights,
                weights_cache=weights_cache,
                clock=clock,
                wait_for_run_s=wait_for_run_s,
            )
        except BaseException:
            self._transport.give_up()
            raise
        self._calls = WorkerCalls(self._transport, self._state)
        self._url, self._beats, self._credentials = url, heartbeat, credentials
        self._timeout_s, self._retry_for_s = timeout_s, retry_for_s
        self._claiming, self._looking = asyncio.Lock(), 0  # calls that wait for work, or for their turn to
        self._reports = set[asyncio.Task[Any]]()  # calls about attempts that end also where their callers are cancelled
        self._grouped = {run: GroupedSubmits(session) for run, session in self._state.sessions.items()}
        self._heartbeat: Heartbeat | None = None
        self._handlers: TaskRunner | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._ending, self._closed = TimeToEnd(lambda: any(self.sessions.values())), False

    async def open(self) -> Self:
        """Connects and starts the sessions; an open worker stays as it is. Raises NoRun, ServerUnavailable."""
        self._transport.refuse_forked()
        if self._is_open and not self._closed:
            return self
        self._loop, self._is_open = asyncio.get_running_loop(), True
        try:
            await self._run(self._calls.join())
            self._thread_transport = await asyncio.to_thread(self._for_thread, self._timeout_s, self._retry_for_s)
            self._thread_transport.io.log_outages_with(self._transport)
            watch = LoopWatch(self.name, self._loop, functools.partial(stack_of, threading.current_thread()))
            self._heartbeat = Heartbeat(
                self._thread_transport,
                lambda silent_s: self._for_thread(silent_s, silent_s),
                self._state.sessions.values(),
                self._cancel_from_thread,
                watch.look,
                self._heartbeat_s,
            )
            if self._beats:
                self._heartbeat.start()
        except BaseException:  # also when cancelled: only this worker can end the sessions that have joined
            await self.close()
            self._is_open = False
            raise
        return self

    def _for_thread(self, timeout_s: float, retry_for_s: float) -> Transport:
        """A transport for the heartbeat's thread. Credentials that have to be awaited are awaited in the event loop."""
        credentials = None if self._credentials is None else in_loop(self._credentials, self._loop, timeout_s)
        name = f"broker:heartbeat:{self.name}"
        return open_transport(
            self._url, timeout_s=timeout_s, retry_for_s=retry_for_s, credentials=credentials, name=name
        )

    @property
    def name(self) -> str:
        """The worker's name."""
        return self._state.name

    @property
    def policy(self) -> Policies:
        """As `broker.Worker.policy`."""
        return self._state.policy

    @policy.setter
    def policy(self, policy: Policies) -> None:
        self._state.policy = policy

    @property
    def held(self) -> list[Attempt]:
        """The attempts that this worker works on."""
        return self._state.held

    @property
    def claim_reason(self) -> str:
        """Why the last claim gave less than asked."""
        return self._state.reason

    @property
    def sessions(self) -> dict[str, str]:
        """The id of this worker's session with each run."""
        return {run: session.id for run, session in self._state.sessions.items()}

    async def claim(self, n: int = 1, timeout: float | None = 0.0) -> list[Attempt]:
        """As `broker.Worker.claim`: waits `timeout` seconds for the first attempt (None: as long as it takes)."""
        n = number_wanted(n)
        async with self._turn():
            attempts = await self._run(self._calls.claim(n, timeout))
        if attempts:
            WORKED_ON.set(attempts[0].id)
        return attempts

    @asynccontextmanager
    async def _turn(self) -> AsyncGenerator[None]:
        """The turn to claim. It may be held until there is work, so results do not wait for it."""
        self._must_be_open()
        self._looking += 1
        try:
            async with self._claiming:
                yield
        finally:
            self._looking -= 1

    async def __aiter__(self) -> AsyncIterator[Attempt]:
        """As `broker.Worker`: submitting one attempt claims the next in the same round trip."""
        async with aclosing(self.batches(1)) as batches:
            async for batch in batches:
                yield batch[0]

    async def batches(self, n: int) -> AsyncGenerator[list[Attempt]]:
        """As `broker.Worker.batches`: the last results of a batch claim the next one in the same round trip."""
        n = number_wanted(n)
        self._state.lanes.ask_again()
        try:
            with grace_at_sigterm(self.stop, self._begins_grace) if self._grace_s else nullcontext():
                while not self._state.stopping:
                    async with self._turn():
                        batch = await self._run(self._calls.next_batch(n))
                    if not batch:
                        return
                    WORKED_ON.set(batch[0].id)
                    yield batch
        finally:
            ahead = self._calls.end_batches()
            if ahead and not self._closed:
                await self._run(self._calls.give_back(ahead))

    async def submit(self, attempt: Attempt, result: Any, *, policy: Policy | None = None) -> Submitted:
        """Submits a result. Results submitted while a round trip is under way are sent together in the next one.

        A cancelled call still submits its result.
        """
        self._must_be_open()
        if self._may_claim():
            return await self._report(self._calls.submit(attempt, result, policy, claims=True), claims=True)
        submission = self._calls.session_of(attempt).submission(attempt, result, policy)
        return await self._grouped[attempt.run].submit(submission)

    async def submit_many(self, results: Iterable[tuple[Attempt, Any]]) -> list[Submitted]:
        """Submits many results, 64 in a round trip; an answer for each, in order.

        A cancelled call still submits its results.
        """
        claims = self._may_claim()
        return await self._report(self._calls.submit_many(results, claims=claims), claims=claims)

    async def _report(self, call: Coroutine[Any, Any, T], *, claims: bool = False) -> T:
        """Makes a call about attempts, which ends also where its caller is cancelled.

        Otherwise nobody would work on the attempts, and the heartbeat would keep them.

        Args:
            call: the call.
            claims: whether it may claim the next batch: it has the turn to claim, which is free now.
        """
        if claims:
            await self._claiming.acquire()  # no other task has the lock, so this does not wait
        report = asyncio.create_task(self._run(call))
        self._reports.add(report)
        report.add_done_callback(self._reports.discard)
        if claims:
            report.add_done_callback(lambda _: self._claiming.release())
        return await asyncio.shield(report)

    def _may_claim(self) -> bool:
        """Whether results may claim the next batch: no task claims or is about to wait for work."""
        return self._calls.iterating and not self._looking and not self._claiming.locked()

    async def reject(self, attempt: Attempt, reason: str = "") -> Submitted:
        """The verdict that this rollout must not be trained on."""
        return await self._report(self._calls.reject(attempt, reason))

    async def release(self, attempts: Attempt | Iterable[Attempt]) -> list[Submitted]:
        """Gives attempts back without penalty."""
        return await self._report(self._calls.release(attempts))

    async def fail(
        self, attempt: Attempt, error: str | BaseException, kind: FailureKind = "task", *, retry: bool = True
    ) -> Submitted:
        """As `broker.Worker.fail`: reports that the attempt could not be finished."""
        return await self._report(self._calls.session_of(attempt).fail(attempt, error, kind, retry=retry))

    async def renew(self) -> None:
        """Renews the leases now (the heartbeat does so by itself)."""
        self._must_be_open()
        assert self._heartbeat is not None, "open"
        await asyncio.to_thread(self._heartbeat.beat)

    async def run(self, handler: Handler, concurrency: int = 1) -> None:
        """Works until `stop` or `drain`, or the run's end: claims, awaits the handler, submits what it returns.

        When the server takes an attempt back, its handler's task is cancelled. A handler that goes on for another
        second is lost, and its place goes to another attempt. SIGTERM stops the worker, after its `grace_s`. So does
        Ctrl-C, at once, where the coroutine that `asyncio.run` runs awaits this call. Stopping cancels all handlers and
        gives attempts back.

        Args:
            handler: coroutine function, or anything that returns an awaitable. It raises Reject to reject the rollout,
                or WorkerFault where this worker cannot do its work, so that another one tries. Any other exception,
                `CancelledError` included, is a failure that is retried. A result that cannot be encoded or is too large
                is a failure that is not retried.
            concurrency: attempts at the same time.

        Raises:
            BadArgument: the handler cannot be called, or it returned something that cannot be awaited (the attempts are
                given back), or concurrency is below 1.
            HandlersLost: the handlers of all places are lost. The other handlers have ended; end the process.
            SystemExit, KeyboardInterrupt: a handler raised it; the attempt is reported as failed.
        """
        if concurrency < 1:
            raise BadArgument(argument="concurrency", given=concurrency, expected="at least 1")
        check_async_handler(handler)
        self._must_be_open()
        handlers = self._handlers = TaskRunner(self._calls, self._claiming, handler, concurrency)
        try:
            with stopped_by_signals(self.stop, self._begins_grace):
                await handlers.work()
        finally:
            await self._end_handlers()

    async def _end_handlers(self) -> None:
        handlers = self._handlers
        if handlers is not None:
            await self._finish(handlers.end())
            handlers.abandon()
            self._handlers = None  # `run` may have ended meanwhile

    async def _finish(self, ending: Coroutine[Any, Any, object]) -> None:
        """Awaits a call that ends the work, for a limited time: the process may be killed soon after."""
        try:
            async with asyncio.timeout(self._ending.begin()):
                await ending
        except TimeoutError:
            self._ending.failed(f"ending waits for at most {END_WITHIN_S:g} s")
        except BrokerError as error:
            self._ending.failed(error)

    def _cancel_from_thread(self, attempt: Attempt) -> None:
        _log.info("attempt %s is of no use any more (%s)", attempt.id, attempt.cancel_reason)
        loop = self._loop
        if loop is not None and not loop.is_closed():
            loop.call_soon_threadsafe(self._cancel_handler, attempt)

    def _cancel_handler(self, attempt: Attempt) -> None:
        if self._handlers is not None:
            self._handlers.cancel(attempt)

    def _begins_grace(self) -> float:
        """Makes the worker claim nothing more if it has something to finish. Returns the seconds that it may take."""
        if self._grace_s <= 0 or not self._state.holds:
            return 0.0
        tell_begun(self.name, self._grace_s)
        self.drain()
        return self._grace_s

    def drain(self) -> None:
        """Claims nothing more; finishes the attempts that it has."""
        self._state.draining = True
        self._wake()

    def stop(self) -> None:
        """Claims nothing more and gives the attempts back."""
        self._state.stopping = True
        self._wake()

    def _wake(self) -> None:
        """Wakes `run`, which may wait for work or for a handler to end."""
        if self._handlers is not None:
            self._handlers.wake()
        self._transport.interrupt()

    async def close(self) -> None:
        """Gives the attempts back, ends the sessions, closes the connections. In a forked child: only the last.

        A close that was cancelled may be called again.
        """
        if self._closed:
            return
        if self._transport.is_forked:
            self._closed = True
            await self._transport.close()
            return
        self.stop()
        if self._heartbeat is not None:
            await asyncio.to_thread(self._heartbeat.stop, HEARTBEAT_ENDS_WITHIN_S)
        await self._end_handlers()
        senders = [grouped.sender for grouped in self._grouped.values() if grouped.sender is not None]
        if reports := [*self._reports, *senders]:
            await self._finish(asyncio.wait(reports))
        for attempt in self._state.held:
            attempt.mark_cancelled("stopped")
        if self._is_open:
            await self._finish(self._run(self._calls.leave()))
        self._closed = True
        await self._transport.close()
        if self._heartbeat is not None:
            self._thread_transport.close()

    async def __aenter__(self) -> Self:
        return await self.open()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if error is not None and not (self._closed or self._transport.is_forked):
                attempt = self._calls.worked_on(() if self._handlers is None else self._handlers.attempts)
                if (found := exit_of_loop()) is not None:  # of a task or callback that the block began
                    error, attempt_id = found
                    attempt = next((one for one in self._state.held if one.id == attempt_id), None)
                ending = judged(error, "block")
                if attempt is not None and ending.how != "released":  # the other attempts are given back in any case
                    await self._finish(self._run(self._calls.fail_attempt(attempt, error, ending)))
        finally:
            await self.close()
