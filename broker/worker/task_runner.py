"""Runs a handler for many attempts at the same time, and sends their results together."""

from __future__ import annotations

import asyncio
import inspect
import logging
import traceback
from collections import deque
from collections.abc import Awaitable, Callable
from contextlib import suppress
from types import FrameType
from typing import Any

from broker.errors import BrokerError, TooBig
from broker.protocol.worker import Submission
from broker.values import spans
from broker.values.attempt import Attempt
from broker.worker.claims_and_results import WorkerCalls
from broker.worker.exception_parts import is_a
from broker.worker.handler_outcome import During, Outcome, judged, not_awaitable
from broker.worker.loop_exit import WORKED_ON, exit_of_loop
from broker.worker.permits import LOOK_EVERY_S, Permits
from broker.worker.session import BYTES_PER_CALL, ITEMS_PER_CALL, Session

Handler = Callable[[Attempt], Awaitable[Any]]

_log = logging.getLogger(__name__)
#: Takes a task out of `asyncio.all_tasks`. The docs of asyncio have it under "Extending".
_unregister_task: Callable[[asyncio.Task[Any]], None] = asyncio._unregister_task  # noqa: SLF001

_Result = tuple[Attempt, Submission]


class TaskRunner:
    """The handlers of one `Worker.run`.

    One call is under way at a time: it carries all finished results, and claims an attempt for each free place. When
    there is no work, a second call waits for it.

    Args:
        calls: the worker's.
        claiming: the lock that a claim holds.
        handler: the user's.
        concurrency: attempts at the same time.
    """

    def __init__(self, calls: WorkerCalls, claiming: asyncio.Lock, handler: Handler, concurrency: int) -> None:
        self._calls, self._state, self._claiming = calls, calls.state, claiming
        self._handler, self._permits = handler, Permits(calls.state, concurrency)
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._results: deque[_Result] = deque()
        self._waiting: asyncio.Task[list[Attempt]] | None = None
        self._working: asyncio.Task[Any] | None = None  # the one in `work`
        self._is_told = False  # whether the last claim got less than it asked for
        self._ended = False
        self._cancelled: set[str] = set()  # attempts whose handlers were cancelled
        self._reporting: set[str] = set()  # attempts that exceptions ended, and whose reports are under way
        self._failure: BaseException | None = None  # what `work` is to raise
        self._changed = asyncio.Event()  # a handler ended, the wait did, or the worker was told to stop or drain

    async def work(self) -> None:
        """Works until the worker is told to stop or drain, or its runs are finished. Handlers that still run: `end`.

        Raises:
            BadArgument: the handler returned something that cannot be awaited.
            HandlersLost: all places are lost to handlers that swallow their cancellation.
            SystemExit, KeyboardInterrupt: a handler raised it.
        """
        state, self._working = self._state, asyncio.current_task()
        looking = asyncio.create_task(self._look())
        state.lanes.ask_again()
        try:
            while self._failure is None and not state.stopping and not (state.is_over and self._is_idle()):
                if self._permits.are_lost:
                    await self._wait_no_more()
                    if self._is_idle():
                        raise self._permits.error(self._stack_of)
                self._collect()
                if self._results:
                    await self._send()
                    continue
                room = self._permits.room
                if room > 0 and self._waiting is None and not (state.ended or state.is_over):
                    self._waiting = asyncio.create_task(self._wait(room, is_told=self._is_told))
                    self._waiting.add_done_callback(lambda _: self._changed.set())
                self._changed.clear()
                if self._failure is None and not state.stopping and not (state.is_over and self._is_idle()):
                    await self._changed.wait()
        finally:
            looking.cancel()
        if self._failure is not None:
            raise self._failure

    async def end(self) -> None:
        """Cancels the handlers that still run, sends finished results, gives the other attempts back.

        A call that was broken off may be made again.
        """
        self._ended = True
        if (found := exit_of_loop()) is not None:
            await self._fail_for(*found)
        finished = {attempt.id for attempt, _ in self._results} | self._reporting
        given_back = [attempt for attempt in self._state.held if attempt.id not in finished]
        for attempt in given_back:
            attempt.mark_cancelled("stopped")
        for attempt_id, task in self._tasks.items():
            # A cancelled handler may end in its own way, unless it swallowed the cancellation.
            if attempt_id not in self._reporting and (
                attempt_id not in self._cancelled or self._permits.lost(attempt_id)
            ):
                self._cancelled.add(attempt_id)
                task.cancel()
        await self._wait_no_more()
        while self._results:
            await self._send()
        if given_back:
            with suppress(BrokerError):
                await self._calls.release(given_back)
        if going_on := [task for attempt_id, task in self._tasks.items() if not self._permits.lost(attempt_id)]:
            await asyncio.wait(going_on)

    def abandon(self) -> None:
        """Makes the event loop end without the handlers that go on although they were cancelled.

        `asyncio.run` waits for all tasks that it knows, without a limit: the process would never end.
        """
        for attempt_id, task in self._tasks.items():
            if attempt_id in self._cancelled and not task.done():
                _log.warning("the handler of attempt %s goes on: the event loop ends without it", attempt_id)
                _unregister_task(task)

    @property
    def attempts(self) -> set[str]:
        """The attempts that handlers work on."""
        return self._permits.attempts

    def wake(self) -> None:
        """Wakes `work`."""
        self._changed.set()

    def cancel(self, attempt: Attempt) -> None:
        """Cancels the handler of an attempt that the server took back."""
        task = self._tasks.get(attempt.id)
        if task is not None:
            self._cancel(attempt.id, task)

    def _cancel(self, attempt_id: str, task: asyncio.Task[None]) -> None:
        """Cancels a handler once: a second cancellation would break off its clean-up and its report."""
        if attempt_id not in self._cancelled and attempt_id not in self._reporting:
            self._cancelled.add(attempt_id)
            task.cancel()

    def _is_idle(self) -> bool:
        return self._permits.is_idle and not self._results and self._waiting is None

    async def _look(self) -> None:
        """Finds lost handlers; cancels those that were not told yet, because their session was lost."""
        while True:
            await asyncio.sleep(LOOK_EVERY_S)
            if self._tasks:
                for attempt in self._permits.look():
                    self.cancel(attempt)
                self._changed.set()

    def _stack_of(self, attempt: Attempt) -> str:
        """The stack of a waiting handler, through the coroutines that it awaits."""
        task, frames = self._tasks.get(attempt.id), list[FrameType]()
        waiting: Any = None if task is None else task.get_coro()
        while waiting is not None:
            frame: FrameType | None = getattr(waiting, "cr_frame", None) or getattr(waiting, "gi_frame", None)
            if frame is not None:
                frames.append(frame)
            waiting = getattr(waiting, "cr_await", None) or getattr(waiting, "gi_yieldfrom", None)
        return "".join(traceback.format_list(traceback.StackSummary.extract((f, f.f_lineno) for f in frames)))

    async def _wait_no_more(self) -> None:
        """Ends the wait for work; attempts that it has brought are given back."""
        waiting = self._waiting
        if waiting is None:
            return
        waiting.cancel()
        await asyncio.wait([waiting])
        self._waiting = None
        if not waiting.cancelled() and waiting.exception() is None:
            await self._calls.give_back(waiting.result())

    def _collect(self) -> None:
        """Starts handlers for the attempts that the wait has brought; raises its error."""
        waiting = self._waiting
        if waiting is not None and waiting.done():
            self._waiting, self._is_told = None, False
            self._start(waiting.result())

    async def _wait(self, n: int, *, is_told: bool) -> list[Attempt]:
        async with self._claiming:
            return await self._calls.claim(n, None, is_told=is_told)

    def _start(self, attempts: list[Attempt]) -> None:
        for attempt in attempts:
            self._permits.take(attempt)
            self._tasks[attempt.id] = asyncio.create_task(self._handle(attempt), name=attempt.id)

    async def _handle(self, attempt: Attempt) -> None:
        try:
            await self._work_on(attempt)
        finally:
            self._tasks.pop(attempt.id, None)
            self._cancelled.discard(attempt.id)
            self._permits.give(attempt)
            if attempt.cancelled:
                self._state.sessions[attempt.run].forget([attempt.id])
            self._changed.set()

    async def _work_on(self, attempt: Attempt) -> None:
        if self._failure is not None:
            return  # `end` gives it back
        during: During = "handler"
        WORKED_ON.set(attempt.id)
        try:
            outcome: object = self._handler(attempt)
            if not inspect.isawaitable(outcome):
                self._failure = not_awaitable(self._handler)
                return
            result: Any = await (outcome if (active := spans.active) is None else active.wait_for(outcome, attempt))
            during = "encoding"
            submission = self._state.sessions[attempt.run].submission(attempt, result)
            if not attempt.cancelled:
                self._results.append((attempt, submission))
        except BaseException as error:
            if self._comes_from_outside(attempt, error):
                raise
            outcome = judged(error, during)
            if outcome.verdict is not None:  # it is sent with the results
                if not attempt.cancelled:
                    session = self._state.sessions[attempt.run]
                    self._results.append((attempt, session.verdict(attempt, outcome.verdict, outcome.reason)))
                return
            await self._end(attempt, error, outcome)
            # Raised from this task, it would end the event loop, and `run` without its clean-up.
            if is_a(error, SystemExit, KeyboardInterrupt) and self._failure is None:
                self._failure = error

    def _comes_from_outside(self, attempt: Attempt, error: BaseException) -> bool:
        """Whether an exception ended a handler from outside: a cancellation, or the end of the event loop."""
        if is_a(error, asyncio.CancelledError):
            ends = self._ended or (self._working is not None and self._working.cancelling() > 0)
            return ends or attempt.cancelled
        if is_a(error, GeneratorExit):
            try:
                return asyncio.current_task() is not self._tasks.get(attempt.id)
            except RuntimeError:  # the event loop has ended
                return True
        return False

    async def _fail_for(self, error: BaseException, attempt_id: str) -> None:
        """Fails the attempt whose handler had begun what ended the event loop, unless it has a result or a signal did.

        Given back, it would end one worker after the other.
        """
        attempt = next((one for one in self._state.held if one.id == attempt_id), None)
        outcome = judged(error, "handler")
        has_ended = attempt_id in self._reporting or any(one.id == attempt_id for one, _ in self._results)
        if attempt is not None and not has_ended and outcome.how == "failed":
            await self._end(attempt, error, outcome)

    async def _end(self, attempt: Attempt, error: BaseException, outcome: Outcome) -> None:
        """Reports an attempt that an exception ended."""
        self._reporting.add(attempt.id)
        try:
            await self._calls.fail_attempt(attempt, error, outcome)
        finally:
            self._reporting.discard(attempt.id)

    async def _send(self) -> None:
        """Submits finished results, as many as one call takes, and claims for the free places in the same call."""
        session, piece = self._next_piece()
        items = [submission for _, submission in piece]
        free = 0 if self._ended else min(ITEMS_PER_CALL, self._permits.room)
        claims = free > 0 and not self._results and not self._claiming.locked() and self._calls.may_claim(session)
        try:
            if claims:
                async with self._claiming:
                    _, attempts = await self._calls.submit_and_claim(session, items, free)
                self._is_told = attempts is not None and len(attempts) < free
                self._start(attempts or [])
            else:
                await session.submit(items)
        except asyncio.CancelledError:
            self._results.extendleft(reversed(piece))  # `end` sends these results again; each counts once
            raise
        except TooBig as error:
            await self._send_apart(session, piece, error)
        except Exception as error:  # noqa: BLE001 - as when the result could not be encoded
            for attempt, _ in piece:
                await self._end(attempt, error, judged(error, "sending"))

    async def _send_apart(self, session: Session, piece: list[_Result], error: TooBig) -> None:
        """Sends each result alone, as the server refused the whole call: one of them is too large."""
        if len(piece) == 1:
            await self._end(piece[0][0], error, judged(error, "sending"))
            return
        for attempt, submission in piece:
            try:
                await session.submit([submission])
            except Exception as refused:  # noqa: BLE001 - as above
                await self._end(attempt, refused, judged(refused, "sending"))

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
        return self._state.sessions[run], piece
