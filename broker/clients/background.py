"""Threads that do not keep the process from ending."""

from __future__ import annotations

import asyncio
import inspect
import sys
import threading
import traceback
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, TypeVar

T = TypeVar("T")


def in_background(call: Callable[[], T], name: str) -> tuple[Future[T], threading.Thread]:
    """Makes a call in a new thread that does not keep the process from ending.

    Args:
        call: what to call.
        name: of the thread.

    Returns:
        A future of the call, and the thread.

    Raises:
        RuntimeError: no thread can be started; nothing was called.
    """
    done: Future[T] = Future()

    def finish() -> None:
        done.set_running_or_notify_cancel()  # from here on nobody can cancel it
        try:
            done.set_result(call())
        except BaseException as error:  # noqa: BLE001 - raised again by `result`
            done.set_exception(error)

    thread = threading.Thread(target=finish, name=name, daemon=True)
    thread.start()
    return done, thread


def in_loop(hook: Callable[[], Any], loop: asyncio.AbstractEventLoop | None, within_s: float) -> Callable[[], Any]:
    """Makes a hook callable from threads: where its answer has to be awaited, the event loop awaits it.

    Args:
        hook: the user's function or coroutine function.
        loop: the loop, which does not wait for the thread.
        within_s: how long the answer may take, seconds; then TimeoutError is raised.
    """

    def call() -> Any:
        answer = hook()
        if not inspect.isawaitable(answer):
            return answer
        assert loop is not None, "the client is open"

        async def awaited() -> Any:
            return await answer

        waiting = awaited()
        try:
            asked = asyncio.run_coroutine_threadsafe(waiting, loop)
        except RuntimeError:  # the loop has ended
            waiting.close()
            if inspect.iscoroutine(answer):
                answer.close()
            raise
        try:
            return asked.result(within_s)
        except TimeoutError:
            asked.cancel()
            raise

    return call


def stack_of(thread: threading.Thread) -> str:
    """The stack of a thread, in lines; empty when the thread has ended."""
    frame = sys._current_frames().get(thread.ident or 0)  # noqa: SLF001 # pyright: ignore[reportPrivateUsage] - documented
    return "".join(traceback.format_stack(frame)) if frame is not None else ""
