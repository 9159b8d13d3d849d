"""SIGTERM and Ctrl-C: attempts are given back, and the signals are told apart from a handler's own exceptions."""

from __future__ import annotations

import functools
import signal
import threading
from collections.abc import Iterator
from types import CodeType, FrameType
from typing import Any, NoReturn, cast

from broker.worker.exception_parts import chain_of, is_a, trace_of
from broker.worker.grace import Grace

#: The signals that ask a process to end. Other signal handlers may raise (an alarm's), but do not end the process.
_ENDING = tuple(
    getattr(signal, name) for name in ("SIGTERM", "SIGINT", "SIGHUP", "SIGQUIT", "SIGBREAK") if hasattr(signal, name)
)


class TerminationAsExit:
    """While installed, SIGTERM raises SystemExit(143) in the main thread. The user's signal handlers stay.

    Ctrl-C raises KeyboardInterrupt, as it does by itself, from a function of ours: `told_to_end` recognises it.

    Args:
        grace: the first SIGTERM begins it, and raises nothing, if there is one and the worker holds attempts.
    """

    def __init__(self, grace: Grace | None = None) -> None:
        self._grace = grace if grace is not None else Grace("", 0.0, lambda: False)
        self._installed: list[signal.Signals] = []
        self._code = 0  # the exit code that SIGTERM asked for; 0: no SIGTERM came
        self._held_off = self._insisted_on = self._came_meanwhile = False

    @property
    def in_grace(self) -> bool:
        """Whether a SIGTERM has begun the grace."""
        return self._grace.has_begun

    def install(self) -> None:
        """Installs the signal handlers: in the main thread only, and only over the default ones."""
        if threading.current_thread() is not threading.main_thread():
            return
        for number, default, handler in (
            (signal.SIGTERM, signal.SIG_DFL, self._exit),
            (signal.SIGINT, signal.default_int_handler, self._interrupt),
        ):
            if signal.getsignal(number) is default:
                signal.signal(number, handler)
                self._installed.append(number)
        if signal.SIGTERM in self._installed:
            self._grace.watch()

    def remove(self) -> None:
        """Puts the default signal handlers back; raises SystemExit if a SIGTERM was held off or began a grace."""
        self._grace.end()
        if not self._installed or threading.current_thread() is not threading.main_thread():
            return
        while self._installed:
            number = self._installed.pop()
            handler, default = (
                (self._exit, signal.SIG_DFL)
                if number is signal.SIGTERM
                else (self._interrupt, signal.default_int_handler)
            )
            if signal.getsignal(number) == handler:
                signal.signal(number, default)
        if self._came_meanwhile or self._grace.has_begun:
            self.insist(holds=False)

    def hold_off(self, *, insisted_on: bool = False) -> None:
        """Holds SIGTERM off until `remove`. For code that ends the worker already, which the signal would break off.

        Args:
            insisted_on: a second SIGTERM since this was installed still raises.
        """
        self._grace.end()
        self._held_off, self._insisted_on = True, insisted_on

    def insist(self, *, holds: bool = True) -> None:
        """Raises SystemExit again where Python dropped it: in a destructor, or in the import of a module in C.

        Args:
            holds: whether the worker holds attempts. With none, it has no reason to wait for the end of a grace.
        """
        if self._grace.has_begun and not holds:
            self._code = self._code or 128 + signal.SIGTERM
        if self._code:
            raise SystemExit(self._code)

    def _exit(self, number: int, _frame: FrameType | None) -> None:
        is_over, self._grace.has_signalled = self._grace.has_signalled, False
        if not (self._held_off or self._code) and self._grace.begin():
            return
        first, self._code = not (self._code or self._grace.has_begun), 128 + number
        if self._held_off and (first or is_over or not self._insisted_on):
            self._came_meanwhile = True
        else:
            self.insist()

    def _interrupt(self, _number: int, _frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    #: The code here that raises for a signal; `told_to_end` looks for it in tracebacks.
    RAISING = (_exit.__code__, _interrupt.__code__, insist.__code__)


def exit_by(number: int) -> NoReturn:
    """Ends the process as the signal asks, but only after the user's cleanup."""
    raise SystemExit(128 + number)


def told_to_end(error: BaseException) -> bool:
    """Whether a signal that asks the process to end raised an exception, or one that the exception came from.

    The traceback decides, not the type: a user's handler may also call `sys.exit` or raise KeyboardInterrupt.

    Args:
        error: the exception that ended a handler or a block.
    """
    own = frozenset(_codes_of_handlers())
    default = signal.getsignal(signal.SIGINT) is signal.default_int_handler
    in_main = threading.current_thread() is threading.main_thread()
    for one in chain_of(error):
        if default and in_main and is_a(one, KeyboardInterrupt):  # raised in C, where no frame shows it
            return True
        trace = trace_of(one)
        while trace is not None:
            if trace.tb_frame.f_code in own:
                return True
            trace = trace.tb_next
    return False


def _codes_of_handlers() -> Iterator[CodeType]:
    """The code of each signal handler of an ending signal: the user's, asyncio's and ours."""
    yield from TerminationAsExit.RAISING
    yield exit_by.__code__
    for number in _ENDING:
        handler: Any = signal.getsignal(number)
        if not callable(handler):  # the system's
            continue
        while isinstance(handler, functools.partial):
            handler = cast("functools.partial[Any]", handler).func
        if not hasattr(handler, "__code__") and not hasattr(handler, "__func__"):
            handler = type(handler).__call__
        code = getattr(getattr(handler, "__func__", handler), "__code__", None)
        if isinstance(code, CodeType):
            yield code
