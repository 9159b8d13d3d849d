"""Ends a child process with its parent: the parent holds the other end of standard input, however it dies."""

from __future__ import annotations

import os
import signal
import sys
import threading
from typing import Final

#: What a child gets to leave in order after it was told to, seconds.
_LEAVE_S: Final = 5.0


def end_with_parent() -> None:
    """Watches standard input from a thread; when it closes, this process is asked to end, and then made to."""
    threading.Thread(target=_watch, name="lifeline", daemon=True).start()


def _watch() -> None:
    while os.read(sys.stdin.fileno(), 1024):
        pass
    os.kill(os.getpid(), signal.SIGTERM)
    threading.Event().wait(_LEAVE_S)
    os._exit(1)
