"""Parses the command line, runs one command, and turns any error into an exit code without a traceback."""

from __future__ import annotations

import argparse
import difflib
import logging
import os
import signal
import sys
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn

from broker.cli import options
from broker.cli.catalogue import CATALOGUE, Entry
from broker.cli.failure import (
    EXIT_BROKEN_PIPE,
    EXIT_INTERRUPTED,
    EXIT_TERMINATED,
    EXIT_UNUSABLE,
    CommandFailure,
    OutputFailure,
    from_broker_error,
    writing_output,
)
from broker.cli.output import Output
from broker.logs import LOG_FORMAT_VARIABLE, json_line, set_up

_DESCRIPTION = (
    "Look after the runs of rollout-broker: tasks and counters of asynchronous RL training, in Redis or Valkey."
)

_EPILOG = """\
examples:
  broker demo                                   see it train, here and now
  broker serve --port 6399                      a private server; prints its URL
  export BROKER_URL=redis://127.0.0.1:6399/0
  broker runs                                   what is on the server
  broker watch math-7b                          a run, live
  broker explain math-7b                        why do my workers get nothing?
  broker tail math-7b --json | jq .             every transition as it happens

exit codes: 0 fine, 1 a negative finding (drift, a refused task, "no"), 2 wrong usage or environment.
`broker COMMAND --help` has the options and examples of each command.
"""


class _CommandParser(argparse.ArgumentParser):
    """Takes options between positional arguments too: `broker dead RUN --json list`, `broker cancel RUN a --json b`.

    The parser of all commands hands the rest of a line to this method; argparse's own method for such lines calls it
    again.
    """

    _mixing = False

    def parse_known_args(  # pyright: ignore[reportIncompatibleMethodOverride] - the base class has overloads
        self, args: Any = None, namespace: Any = None
    ) -> tuple[Any, list[str]]:
        """As the base class's method, with options and positional arguments in any order."""
        if self._mixing or "--" in (args or ()):  # after `--` there are no options
            return super().parse_known_args(args, namespace)
        self._mixing = True
        try:
            return self.parse_known_intermixed_args(args, namespace)
        finally:
            self._mixing = False


class _Terminated(BaseException):
    """SIGTERM arrived. Not an Exception, so that no `except Exception` of a command swallows it."""


def entry_point() -> NoReturn:
    """The command `broker`: runs with the arguments of the process, and exits."""
    # The parent process has closed it, and wants nothing printed.
    sys.stdout = sys.stdout or Path(os.devnull).open("w")  # noqa: SIM115 - as long as the process
    sys.stderr = sys.stderr or Path(os.devnull).open("w")  # noqa: SIM115
    log_format = options.log_format(sys.argv[1:])
    os.environ[LOG_FORMAT_VARIABLE] = log_format  # for processes that a command starts
    sys.exit(main(sys.argv[1:]))


def main(argv: Sequence[str], output: Output | None = None) -> int:
    """Run one command.

    Args:
        argv: the arguments after the program's name.
        output: the streams to print to; by default the process's.

    Returns:
        the exit code: 0, 1 (negative finding), 2 (usage, environment), 130 (Ctrl-C), 143 (SIGTERM), 141 (reader gone).
    """
    log_format = options.log_format(argv)
    set_up(log_format)
    previous = _on_sigterm(_raise_terminated)
    try:
        return _guarded(argv, output, log_format)
    finally:
        if previous is not None:
            _on_sigterm(previous)


def build_parser(argv: Sequence[str]) -> argparse.ArgumentParser:
    """The parser for `argv`: all commands by name, but only the ones that `argv` mentions with their arguments."""
    parser = argparse.ArgumentParser(
        prog="broker",
        description=_DESCRIPTION,
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"rollout-broker {_version()}")
    options.add_log_format(parser)
    commands = parser.add_subparsers(
        title="commands", metavar="COMMAND", dest="command", required=True, parser_class=_CommandParser
    )
    for entry in CATALOGUE:
        subparser = commands.add_parser(
            entry.name,
            help=entry.summary,
            description=entry.summary[0].upper() + entry.summary[1:] + ".",
            formatter_class=argparse.RawDescriptionHelpFormatter,
            allow_abbrev=False,
        )
        if entry.name in argv:
            entry.load().configure(subparser)
            options.add_log_format(subparser)
    return parser


def _guarded(argv: Sequence[str], output: Output | None, log_format: str) -> int:
    try:
        code = _dispatch(argv, output, log_format)
        with writing_output():
            sys.stdout.flush()
    except KeyboardInterrupt:
        return EXIT_INTERRUPTED
    except _Terminated:
        return EXIT_TERMINATED
    except BrokenPipeError:
        _forget_output()
        return EXIT_BROKEN_PIPE
    except OutputFailure as failure:
        _forget_output()
        return _told(failure, log_format)
    return code


def _forget_output() -> None:
    """Replaces standard output: the interpreter flushes it once more when it exits."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _unknown_command(argv: Sequence[str]) -> CommandFailure | None:
    """A failure that suggests the command that was meant, if `argv` names one that does not exist."""
    given = argv[0] if argv else ""
    names = [entry.name for entry in CATALOGUE]
    if not given or given.startswith("-") or given in names:
        return None
    close = difflib.get_close_matches(given, names, n=3) or [name for name in names if name.startswith(given)]
    meant = " or ".join(f"`broker {name}`" for name in close)
    return CommandFailure(
        f"there is no command {given!r}. " + (f"Did you mean {meant}? " if meant else "") + "`broker --help` lists all."
    )


def _dispatch(argv: Sequence[str], output: Output | None, log_format: str) -> int:
    if (unknown := _unknown_command(argv)) is not None:
        return _told(unknown, log_format)
    try:
        namespace = build_parser(argv).parse_args(argv)
    except SystemExit as finished:  # argparse has printed its help (0) or the error (2)
        return finished.code if isinstance(finished.code, int) else EXIT_UNUSABLE
    except CommandFailure as failure:
        return _told(failure, log_format)
    entry: Entry = next(entry for entry in CATALOGUE if entry.name == namespace.command)
    from broker.errors import BrokerError

    try:
        output = output or Output(as_json=getattr(namespace, "json", False), log_format=log_format)
        return entry.load().run(namespace, output)
    except OutputFailure:
        raise
    except CommandFailure as failure:
        return _told(failure, log_format)
    except BrokerError as error:
        return _told(from_broker_error(error), log_format)


def _told(failure: CommandFailure, log_format: str) -> int:
    is_json = log_format == "json"
    told = json_line("broker.cli", logging.ERROR, failure.message) if is_json else f"broker: {failure.message}"
    sys.stderr.write(f"{told}\n")
    return failure.exit_code


def _raise_terminated(_number: int, _frame: FrameType | None) -> None:
    raise _Terminated


def _on_sigterm(handler: signal._HANDLER) -> signal._HANDLER:  # pyright: ignore[reportPrivateUsage]
    try:
        return signal.signal(signal.SIGTERM, handler)
    except ValueError:  # not in the main thread, which has the signals
        return None


def _version() -> str:
    try:
        return version("rollout-broker")
    except PackageNotFoundError:  # run from a checkout that is not installed
        return "(not installed)"
