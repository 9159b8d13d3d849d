"""The main function of the demo's child processes: arguments, signals, the parent's end, errors in one line."""

from __future__ import annotations

import os
import signal
import sys
import threading
from argparse import ArgumentParser, Namespace
from collections.abc import Callable
from types import FrameType
from typing import Final, NoReturn

from broker.errors import BrokerError
from broker.logs import LOG_FORMAT_VARIABLE, set_up

#: How long a child gets to end in order after it was told to, seconds.
LEAVE_S: Final = 5.0


def enter(parser: ArgumentParser, work: Callable[[Namespace], None]) -> NoReturn:
    """Parses the command line, works, and ends the process: 0, 2 for an error of the broker, 143 for SIGTERM.

    Args:
        parser: of the child's own arguments; the arguments of every child are added here.
        work: the child's work; takes the parsed arguments.
    """
    url = os.environ.get("BROKER_URL")
    parser.add_argument("--url", default=url, required=not url, help="the server (default: BROKER_URL)")
    parser.add_argument("--run", required=True, help="name of the run")
    parser.add_argument("--lifeline", action="store_true", help="end when standard input is closed")
    namespace = parser.parse_args()
    set_up(os.environ.get(LOG_FORMAT_VARIABLE, ""))
    signal.signal(signal.SIGTERM, _leave)
    if namespace.lifeline:
        threading.Thread(target=_end_with_parent, name="lifeline", daemon=True).start()
    try:
        work(namespace)
    except BrokerError as error:
        sys.stderr.write(f"{parser.prog}: {error}\n")
        sys.exit(2)
    except KeyboardInterrupt:
        sys.exit(128 + signal.SIGINT)
    sys.exit(0)


def _leave(number: int, _frame: FrameType | None) -> NoReturn:
    sys.exit(128 + number)


def _end_with_parent() -> None:
    """Waits until the parent, which holds the other end of standard input, has ended; then ends this process."""
    while os.read(sys.stdin.fileno(), 1024):
        pass
    os.kill(os.getpid(), signal.SIGTERM)
    threading.Event().wait(LEAVE_S)
    os._exit(1)
