"""Failures of a command that its user can mend, and errors of the broker in words for a person."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from broker.errors import AuthenticationFailed

if TYPE_CHECKING:
    from broker.errors import BrokerError

#: The command did its work, and found nothing wrong.
EXIT_OK = 0
#: The command did its work, and its finding is negative: drift, a refused task, a question answered with no.
EXIT_FINDING = 1
#: The command could not do its work: wrong usage, or the environment does not allow it.
EXIT_UNUSABLE = 2
#: Ended by Ctrl-C, SIGTERM or a reader that went away; the shell's convention is 128 + the signal's number.
EXIT_INTERRUPTED = 130
EXIT_TERMINATED = 143
EXIT_BROKEN_PIPE = 141

#: Errors that refuse a well-formed request; nothing is broken.
_FINDINGS = frozenset({"FENCED", "REWOUND", "EARLY", "GONE", "UNDONE", "DIGEST", "CONFIG", "RECOVERING", "EXHAUSTED"})

#: Advice that the command line adds to an error's sentence.
_ADVICE = {
    "NORUN": "`broker runs` lists what is there.",
    "UNAVAILABLE": "The server is the one of --url, or of the environment variable BROKER_URL.",
    "AUTH": "With a password the URL is redis://USER:PASSWORD@HOST:PORT/0.",
}


class CommandFailure(Exception):
    """A command gives up with a message for the user and an exit code, without a traceback.

    Args:
        message: what happened, to what, and what to do.
        exit_code: 1 for a negative finding, 2 for usage and environment.
    """

    def __init__(self, message: str, exit_code: int = EXIT_UNUSABLE) -> None:
        super().__init__(message)
        self.message = message
        self.exit_code = exit_code


class OutputFailure(CommandFailure):
    """Standard output cannot be written: a full disk, a file that is too large, or it was closed from the start."""


@contextmanager
def writing_output() -> Generator[None]:
    """Raises OutputFailure if standard output cannot be written, BrokenPipeError if its reader has gone."""
    try:
        yield
    except BrokenPipeError:
        raise
    except OSError as error:
        raise OutputFailure(f"cannot write to standard output: {error.strerror or error}") from error


def from_broker_error(error: BrokerError) -> CommandFailure:
    """Turns an error of the broker into a failure of the command, with advice for some errors."""
    lacks_rights = isinstance(error, AuthenticationFailed) and error.lacks_rights
    advice = "" if lacks_rights else _ADVICE.get(error.code)
    text = f"{error}\n{advice}" if advice else str(error)
    return CommandFailure(text, EXIT_FINDING if error.code in _FINDINGS else EXIT_UNUSABLE)


@contextmanager
def extra_needed(extra: str, what: str, modules: frozenset[str]) -> Generator[None]:
    """Around imports of modules that only an extra installs.

    Args:
        extra: its name.
        what: the user of the modules, in words.
        modules: the modules of the extra, by import name; another missing module is a fault of the installation.

    Raises:
        CommandFailure: one of the modules is not installed.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] not in modules:
            raise
        raise CommandFailure(
            f"{what} needs {error.name}, which is not installed. Install it with: pip install 'rollout-broker[{extra}]'"
        ) from error
