"""Threads that do not keep the process from ending."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import TypeVar

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
