"""SIGTERM and Ctrl-C while a worker for asyncio runs handlers."""

from __future__ import annotations

import asyncio
import functools
import logging
import signal
from collections.abc import Callable, Generator
from contextlib import contextmanager

_log = logging.getLogger(__name__)


@contextmanager
def stopped_by_signals(stop: Callable[[], None], begins_grace: Callable[[], float]) -> Generator[None]:
    """SIGTERM stops the worker, and so may Ctrl-C; the next signal ends the process at once.

    The user's signal handlers stay. asyncio's handler of Ctrl-C cancels the coroutine that `asyncio.run` runs.
    Where that coroutine awaits the worker, the worker is stopped instead, which shows no traceback.

    Args:
        stop: stops the worker.
        begins_grace: called at the first SIGTERM. Returns for how many seconds the worker may go on until it is
            stopped; 0: it is to be stopped now. A second SIGTERM stops it.
    """
    loop, undone = asyncio.get_running_loop(), list[Callable[[], object]]()
    interrupt = signal.getsignal(signal.SIGINT)
    main_task = getattr(interrupt, "keywords", {}).get("main_task")
    taken_over = [signal.SIGTERM] if signal.getsignal(signal.SIGTERM) is signal.SIG_DFL else []
    if main_task is not None and main_task is asyncio.current_task():
        taken_over.append(signal.SIGINT)
    grace: list[asyncio.TimerHandle] = []

    def over(seconds: float) -> None:
        _log.warning("what the worker could not finish in %g s (grace_s) is given back", seconds)
        stop()

    for number in taken_over:

        def told(number: signal.Signals = number) -> None:
            if number is signal.SIGTERM and not grace and (seconds := begins_grace()):
                grace.append(loop.call_later(seconds, over, seconds))
                return
            loop.remove_signal_handler(number)  # the next signal has the system's or Python's effect
            stop()

        try:
            loop.add_signal_handler(number, told)
        except (NotImplementedError, RuntimeError, ValueError):  # not the main thread, or not on Unix
            break
        undone.append(functools.partial(loop.remove_signal_handler, number))
    try:
        yield
    finally:
        for timer in grace:
            timer.cancel()
        for undo in undone:
            undo()
        if signal.SIGINT in taken_over and undone and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
            signal.signal(signal.SIGINT, interrupt)
