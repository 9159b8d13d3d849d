"""Single keys of a terminal, while a picture is shown."""

from __future__ import annotations

import os
import select
import sys
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager

#: What arrow keys and others send.
_SEQUENCES = {
    **dict.fromkeys((b"\x1b[A", b"\x1bOA", b"k"), "up"),
    **dict.fromkeys((b"\x1b[B", b"\x1bOB", b"j"), "down"),
    **dict.fromkeys((b"\r", b"\n"), "enter"),
    **dict.fromkeys((b"q", b"Q"), "quit"),
    b"\t": "tab",
    b"\x1b": "escape",
}


@contextmanager
def keys() -> Generator[Callable[[float], str]]:
    """Yields a function that waits so many seconds for a key; "": none came, or standard input is no terminal.

    A key is `up`, `down`, `tab`, `enter`, `escape` or `quit`. Ctrl-C stays what it is.
    """
    try:
        descriptor = sys.stdin.fileno()
        is_terminal = os.isatty(descriptor)
    except (AttributeError, OSError, ValueError):  # no standard input, or one without a descriptor
        descriptor, is_terminal = -1, False
    if not is_terminal:
        yield _wait_without
        return
    import termios
    import tty

    before = termios.tcgetattr(descriptor)
    try:
        tty.setcbreak(descriptor)
        yield lambda seconds: _key(descriptor, seconds)
    finally:
        termios.tcsetattr(descriptor, termios.TCSADRAIN, before)


def _wait_without(seconds: float) -> str:
    time.sleep(seconds)
    return ""


def _key(descriptor: int, seconds: float) -> str:
    ready, _, _ = select.select([descriptor], [], [], seconds)
    if not ready:
        return ""
    read = os.read(descriptor, 16)
    return "quit" if not read else _SEQUENCES.get(read, "other")
