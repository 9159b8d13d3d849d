"""The frame of the demo's child processes: arguments, signals, and errors in one line."""

from __future__ import annotations

import logging
import os
import signal
import sys
from argparse import ArgumentParser, Namespace
from collections.abc import Callable
from types import FrameType
from typing import Final, NoReturn

from broker.demo.lifeline import end_with_parent
from broker.errors import BrokerError

#: A child that could not do its work.
EXIT_FAILED: Final = 2


def add_run_arguments(parser: ArgumentParser) -> None:
    """The arguments of every child: which run, on which server."""
    url = os.environ.get("BROKER_URL")
    parser.add_argument("--url", default=url, required=not url, help="the server (default: BROKER_URL)")
    parser.add_argument("--run", required=True, help="name of the run")
    parser.add_argument("--lifeline", action="store_true", help="end when standard input is closed")


def enter(parser: ArgumentParser, work: Callable[[Namespace], None]) -> NoReturn:
    """Parses the command line, works, and ends the process: 0, 2 for an error of the broker, 143 for SIGTERM."""
    namespace = parser.parse_args()
    logging.basicConfig(format="%(levelname)s: %(message)s", level=logging.WARNING)
    signal.signal(signal.SIGTERM, _leave)
    if namespace.lifeline:
        end_with_parent()
    try:
        work(namespace)
    except BrokerError as error:
        sys.stderr.write(f"{parser.prog}: {error}\n")
        sys.exit(EXIT_FAILED)
    except KeyboardInterrupt:
        sys.exit(128 + signal.SIGINT)
    sys.exit(0)


def _leave(number: int, _frame: FrameType | None) -> NoReturn:
    sys.exit(128 + number)
