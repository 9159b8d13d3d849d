"""The signals of the processes that tests start, whatever the shell gave to the tests themselves."""

from __future__ import annotations

import signal
from types import FrameType

#: Python ignores them itself, and `subprocess` gives them back to children.
_OF_PYTHON = {signal.SIGPIPE, signal.SIGXFSZ}


def give_defaults_to_children() -> None:
    """Every program that this process starts from now on has default signals, none of them blocked.

    A script ignores SIGINT in what it starts in the background, and `nohup` SIGHUP; what a process ignores or blocks,
    its children do, too. A signal that is handled is ignored as well by a handler that does nothing, but has its
    default in the program that a child executes.
    """
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
    for number in signal.valid_signals() - _OF_PYTHON:
        if signal.getsignal(number) is signal.SIG_IGN:
            signal.signal(number, _do_nothing)


def _do_nothing(_number: int, _frame: FrameType | None) -> None:
    """Python's own handler of the signal runs this between two instructions."""
