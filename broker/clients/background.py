"""Threads that do not keep the process from ending."""

from __future__ import annotations

import sys
import threading
import traceback
from collections.abc import Callable
from concurrent.futures import Future
from typing import TypeVar

T = TypeVar("T")


def in_background(call: Callable[[], T], name: str) -> tuple[Future[T], threading.Thread]:
    """Calls something in a thread of its own, which does not keep the process from ending.

    Args:
        call: what to call.
        name: of the thread.

    Returns:
        What it will have returned or raised, and the thread.

    Raises:
        RuntimeError: no thread can be started; nothing was called.
    """
    done: Future[T] = Future()

    def finish() -> None:
        try:
            done.set_result(call())
        except BaseException as error:  # noqa: BLE001 - raised again by `result`
            done.set_exception(error)

    thread = threading.Thread(target=finish, name=name, daemon=True)
    thread.start()
    return done, thread


def stack_of(thread: threading.Thread) -> str:
    """Where a thread is, in lines; empty where it has ended."""
    frame = sys._current_frames().get(thread.ident or 0)  # noqa: SLF001 # pyright: ignore[reportPrivateUsage] - documented
    return "".join(traceback.format_stack(frame)) if frame is not None else ""
