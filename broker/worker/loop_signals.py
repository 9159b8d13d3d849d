"""SIGTERM and Ctrl-C while a worker for asyncio runs handlers."""

from __future__ import annotations

import asyncio
import functools
import logging
import signal
from collections.abc import Callable, Generator
from contextlib import contextmanager

from broker.worker.signals import exit_by

_log = logging.getLogger(__name__)


@contextmanager
def grace_at_sigterm(stop: Callable[[], None], begins_grace: Callable[[], float]) -> Generator[None]:
    """A loop of the user's over a worker's attempts: SIGTERM begins the grace, and a second one ends the process.

    The user's signal handlers stay.

    Args:
        stop: stops the worker, which holds nothing.
        begins_grace: called at the first SIGTERM. Returns for how many seconds the worker may finish what it holds;
            then SystemExit ends the event loop. 0: it holds nothing.
    """
    loop, came, timers = asyncio.get_running_loop(), False, list[asyncio.TimerHandle]()

    def over(seconds: float) -> None:
        _tell_over(seconds)
        exit_by(signal.SIGTERM)

    def told() -> None:
        nonlocal came
        if came:
            exit_by(signal.SIGTERM)
        came = True
        if seconds := begins_grace():
            timers.append(loop.call_later(seconds, over, seconds))
        else:
            stop()

    is_free = signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
    if is_free:
        try:
            loop.add_signal_handler(signal.SIGTERM, told)
        except (NotImplementedError, RuntimeError, ValueError):  # not the main thread, or not on Unix
            is_free = False
    try:
        yield
    finally:
        for timer in timers:
            timer.cancel()
        if is_free and not loop.is_closed():
            loop.remove_signal_handler(signal.SIGTERM)


def _tell_over(seconds: float) -> None:
    _log.warning("what the worker could not finish in %g s (grace_s) is given back", seconds)


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
        _tell_over(seconds)
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
