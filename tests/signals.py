"""Default signals for the processes that tests start, whatever signals the shell ignores for the tests."""

from __future__ import annotations

import signal
from types import FrameType

#: Signals that Python ignores itself; `subprocess` restores them for children.
_OF_PYTHON = {signal.SIGPIPE, signal.SIGXFSZ}


def give_defaults_to_children() -> None:
    """Gives default signals, none of them blocked, to every program that this process starts from now on.

    A shell ignores SIGINT for background processes, and `nohup` ignores SIGHUP. Children inherit ignored and blocked
    signals, but not handlers. So a handler that does nothing takes the place of each ignored signal.
    """
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
    for number in signal.valid_signals() - _OF_PYTHON:
        if signal.getsignal(number) is signal.SIG_IGN:
            signal.signal(number, _do_nothing)


def _do_nothing(_number: int, _frame: FrameType | None) -> None:
    """Ignores a signal."""
