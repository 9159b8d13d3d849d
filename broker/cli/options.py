"""Arguments that several commands share, and the connection that they describe."""

from __future__ import annotations

import math
import os
from argparse import SUPPRESS, ArgumentParser, ArgumentTypeError, Namespace
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from itertools import pairwise
from typing import TYPE_CHECKING

from broker.cli.failure import CommandFailure
from broker.logs import FORMATS, LOG_FORMAT_VARIABLE
from broker.values.names import URL_VARIABLE

if TYPE_CHECKING:
    from broker.operator import Operator

#: How long a command tries to reach a server that does not answer: shorter than a worker, because a person waits.
PATIENCE_S = 3.0

_LOG_FORMAT = "--log-format"

#: The largest number that an option takes: the largest that a server reads.
_MOST = 2**63 - 1


def add_examples(parser: ArgumentParser, text: str) -> None:
    """Puts examples below the options of `--help`."""
    parser.epilog = f"examples:\n{text.rstrip()}\n"


def add_run(parser: ArgumentParser) -> None:
    """The positional argument RUN."""
    parser.add_argument("run", metavar="RUN", help="the run's name, as its trainer gives it; `broker runs` lists them")


def add_json(parser: ArgumentParser) -> None:
    """The option --json."""
    parser.add_argument(
        "--json", action="store_true", help="print JSON, one object a line, and nothing else on standard output"
    )


def add_url(parser: ArgumentParser) -> None:
    """The option --url."""
    parser.add_argument(
        "--url",
        metavar="URL",
        help="the server: redis://, rediss://, valkey://, unix://, redis+sentinel://, redis+cluster:// "
        f"(default: the environment variable {URL_VARIABLE})",
    )


def add_interval(parser: ArgumentParser) -> None:
    """The option --interval."""
    parser.add_argument(
        "--interval", type=positive_seconds, default=1.0, metavar="SECONDS", help="time between looks (default: 1)"
    )


def add_log_format(parser: ArgumentParser) -> None:
    """The option --log-format; `log_format` reads it before the command line is parsed."""
    parser.add_argument(
        _LOG_FORMAT,
        choices=FORMATS,
        default=SUPPRESS,
        help="what the log on standard error is: text, or one JSON object a line "
        f"(default: the environment variable {LOG_FORMAT_VARIABLE}, or text)",
    )


def log_format(argv: Sequence[str]) -> str:
    """The format of the log that a command line asks for, or else the environment; `text` if it is none."""
    words = argv[: argv.index("--")] if "--" in argv else argv
    asked = [os.environ.get(LOG_FORMAT_VARIABLE, "")]
    asked += [word.partition("=")[2] for word in words if word.startswith(f"{_LOG_FORMAT}=")]
    asked += [after for word, after in pairwise(words) if word == _LOG_FORMAT]
    return "json" if asked[-1] == "json" else "text"


def positive_seconds(text: str) -> float:
    """An argument in seconds above 0, for argparse."""
    try:
        seconds = float(text)
    except ValueError:
        raise ArgumentTypeError(f"{text!r} is not a number of seconds") from None
    if not 0 < seconds <= 86_400:
        raise ArgumentTypeError(f"{text} is not a number of seconds above 0 and up to 86400 (a day)")
    return seconds


def positive_int(text: str) -> int:
    """An argument of at least 1, for argparse."""
    try:
        number = int(text)
    except ValueError:
        raise ArgumentTypeError(f"{text!r} is not a whole number") from None
    if not 1 <= number <= _MOST:
        raise ArgumentTypeError(f"{text} is not a whole number from 1 to {_MOST}")
    return number


def port_or_any(text: str) -> int:
    """An argument that is a port, for argparse; 0 stands for any that is free."""
    if not text.isdecimal() or int(text[:6]) > 65_535:
        raise ArgumentTypeError(f"{text!r} is not a port, 0 to 65535")
    return int(text)


def file_path(text: str) -> str:
    """An argument that names a file, for argparse. Refuses the empty path, which would be the current directory."""
    if not text:
        raise ArgumentTypeError("the path is empty: name a file")
    return text


def resolve_url(namespace: Namespace) -> str:
    """The URL of the server, from --url or BROKER_URL.

    Raises:
        CommandFailure: neither is set, or the URL is embedded://, which no other process could share.
    """
    url: str = namespace.url or os.environ.get(URL_VARIABLE, "")
    if not url:
        raise CommandFailure(
            f"which server? Give --url redis://HOST:6379/0 or set {URL_VARIABLE}.\n"
            "Without a server of your own, `broker serve` starts one and prints its URL."
        )
    if url == "embedded://":
        raise CommandFailure(
            f"{url} would be a new, private server that holds no run.\n"
            "Start one that can be shared with `broker serve`, and give the URL that it prints."
        )
    return url


@contextmanager
def connected(namespace: Namespace) -> Generator[Operator]:
    """An `Operator` of the server that the arguments name, closed afterwards."""
    url = resolve_url(namespace)
    from broker.operator import Operator

    with Operator(url, retry_for_s=PATIENCE_S) as operator:
        yield operator


@contextmanager
def following(namespace: Namespace) -> Generator[Operator]:
    """As `connected`, for a command that goes on until Ctrl-C.

    A server or run that is missing at first is an error, as for any command. Later the command waits without limit for
    a server that goes away, and logs when it goes and comes back.
    """
    from broker.operator import Operator

    with Operator(resolve_url(namespace), retry_for_s=math.inf) as operator:
        with connected(namespace) as first:
            first.stats(namespace.run)
        yield operator
