"""Runs a handler for many attempts at the same time, and sends what they made together."""

from __future__ import annotations

import asyncio
import inspect
import logging
from collections import deque
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any

from broker.aio.driver import Driver
from broker.errors import BadArgument, BrokerError, Reject, ServerUnavailable
from broker.handlers import log_failure, not_awaitable
from broker.models import Attempt
from broker.operations.worker import Submission
from broker.session import BYTES_PER_CALL, ITEMS_PER_CALL, Session
from broker.worker_core import WorkerCore

_log = logging.getLogger("broker")

Handler = Callable[[Attempt], Awaitable[Any]]

_Result = tuple[Attempt, Submission]


class Handlers:
    """The handlers of one `Worker.run`.

    One call is under way at a time: it carries all results that there are, and claims as many attempts as handlers are
    free. Only where there is no work, a second one waits for some.

    Args:
        core: the worker.
        driver: does the I/O.
        claiming: held by whoever claims.
        handler: the user's.
        concurrency: attempts at the same time.
    """

    def __init__(
        self, core: WorkerCore, driver: Driver, claiming: asyncio.Lock, handler: Handler, concurrency: int
    ) -> None:
        self._core, self._driver, self._claiming = core, driver, claiming
        self._handler, self._concurrency = handler, concurrency
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._results: deque[_Result] = deque()
        self._waiting: asyncio.Task[list[Attempt]] | None = None
        self._asked = False  # whether the last claim got less than it asked for
        self._ended = False
        self._refused: BadArgument | None = None  # the handler turned out to be none for asyncio
        self._changed = asyncio.Event()  # a handler ended, the wait did, or the worker was told to stop or drain

    async def work(self) -> None:
        """Until the worker is told to stop or drain. Handlers that still run are left to `end`.

        Raises:
            BadArgument: the handler returned something that cannot be awaited.
        """
        core = self._core
        while self._refused is None and not core.stopping and not (core.draining and self._is_idle()):
            self._collect()
            if self._results:
                await self._send()
                continue
            free = self._concurrency - len(self._tasks)
            if free > 0 and self._waiting is None and not core.ended:
                self._waiting = asyncio.create_task(self._wait(free, asked=self._asked))
                self._waiting.add_done_callback(lambda _: self._changed.set())
            self._changed.clear()
            if not core.stopping and not (core.draining and self._is_idle()):
                await self._changed.wait()
        if self._refused is not None:
            raise self._refused

    async def end(self) -> None:
        """Sends what was finished, gives back the rest, and cancels the handlers that still run."""
        self._ended = True
        if self._waiting is not None:
            self._waiting.cancel()
            await asyncio.gather(self._waiting, return_exceptions=True)
        while self._results:
            await self._send()
        held = self._core.held
        for attempt in held:
            attempt.mark_cancelled("stopped")
        tasks = list(self._tasks.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        if held:
            with suppress(BrokerError):
                await self._driver.run(self._core.release(held))

    def wake(self) -> None:
        """Lets `work` look up."""
        self._changed.set()

    def cancel(self, attempt: Attempt) -> None:
        """Cancels the handler of an attempt that is of no use any more."""
        task = self._tasks.get(attempt.id)
        if task is not None:
            task.cancel()

    def _is_idle(self) -> bool:
        return not self._tasks and not self._results and self._waiting is None

    def _collect(self) -> None:
        """Starts on what the wait has brought; raises what it raised."""
        waiting = self._waiting
        if waiting is not None and waiting.done():
            self._waiting, self._asked = None, False
            self._start(waiting.result())

    async def _wait(self, n: int, *, asked: bool) -> list[Attempt]:
        async with self._claiming:
            return await self._driver.run(self._core.claim(n, None, asked=asked))

    def _start(self, attempts: list[Attempt]) -> None:
        for attempt in attempts:
            self._tasks[attempt.id] = asyncio.create_task(self._handle(attempt), name=attempt.id)

    async def _handle(self, attempt: Attempt) -> None:
        session = self._core.session_of(attempt)
        try:
            if self._refused is not None:
                return  # `end` gives it back
            try:
                outcome: object = self._handler(attempt)
                if not inspect.isawaitable(outcome):
                    self._refused = not_awaitable(self._handler)
                    return
                result: Any = await outcome
            except Reject as rejection:
                submission = session.rejection(attempt, str(rejection))
            else:
                submission = session.submission(attempt, result)
            if not attempt.cancelled:
                self._results.append((attempt, submission))
        except asyncio.CancelledError:
            if not attempt.cancelled:
                if not self._ended:  # the handler's own: nobody works on it any more
                    session.forget([attempt.id])
                raise
        except Exception as error:  # noqa: BLE001 - whatever the user's handler raises, or a result that cannot be sent
            if not attempt.cancelled:
                await self._fail(attempt, error)
        finally:
            self._tasks.pop(attempt.id, None)
            if attempt.cancelled:
                session.forget([attempt.id])
            self._changed.set()

    async def _fail(self, attempt: Attempt, error: Exception) -> None:
        log_failure(attempt, error)
        session = self._core.session_of(attempt)
        try:
            await self._driver.run(session.fail(attempt, repr(error), retry=True))
        except BrokerError as unreported:
            _log.warning("attempt %s could not be reported: %s", attempt.id, unreported)
            session.forget([attempt.id])

    async def _send(self) -> None:
        """Submits what there is, at most what one call takes, and claims for the free handlers in the same call."""
        session, piece = self._next_piece()
        items = [submission for _, submission in piece]
        free = 0 if self._ended else min(ITEMS_PER_CALL, self._concurrency - len(self._tasks))
        claims = free > 0 and not self._results and not self._claiming.locked() and self._core.may_claim(session)
        try:
            if claims:
                async with self._claiming:
                    _, attempts = await self._driver.run(self._core.submit_and_claim(session, items, free))
                self._asked = attempts is not None and len(attempts) < free
                self._start(attempts or [])
            else:
                await self._driver.run(session.submit(items))
        except asyncio.CancelledError:
            self._results.extendleft(reversed(piece))  # `end` sends them again, which has its effect once
            raise
        except ServerUnavailable as error:
            for attempt, _ in piece:
                _log.warning("attempt %s could not be submitted: %s", attempt.id, error)
            session.forget(attempt.id for attempt, _ in piece)  # others get it, unless it was submitted
        except Exception as error:  # noqa: BLE001 - as when the result could not be encoded
            for attempt, _ in piece:
                await self._fail(attempt, error)

    def _next_piece(self) -> tuple[Session, list[_Result]]:
        """Takes results of one run."""
        results = self._results
        run, size = results[0][0].run, 0
        piece: list[_Result] = []
        while results and len(piece) < ITEMS_PER_CALL and (not piece or size < BYTES_PER_CALL):
            if results[0][0].run != run:
                break
            piece.append(results.popleft())
            size += len(piece[-1][1].body)
        return self._core.sessions[run], piece
