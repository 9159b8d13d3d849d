"""What threads of a client need: hooks that an event loop awaits, stacks to show."""

from __future__ import annotations

import asyncio
import inspect
import sys
import threading
import traceback
from collections.abc import Callable
from typing import Any


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
