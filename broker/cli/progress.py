"""How far long work is, on a terminal, and log lines above what is drawn there."""

from __future__ import annotations

import io
import logging
import sys
import time
from collections.abc import Generator
from contextlib import ExitStack, contextmanager
from typing import Final, Protocol, TextIO, cast

#: Work that takes no longer than this, in seconds, shows no progress; and how far apart the numbers are drawn.
_SHORT_S: Final = 1.0
_APART_S: Final = 0.2


class ShowProgress(Protocol):
    """Shows how far long work is."""

    def __call__(self, done: int, total: int | None = None, /) -> None:
        """Takes the number done, and the number in all if it is known."""


@contextmanager
def progress(what: str, stream: TextIO) -> Generator[ShowProgress]:
    """As `Output.progress`, on a stream."""
    started, last = time.monotonic(), 0.0
    shown: _Bar | _Count | None = None

    def tell(done: int, total: int | None = None) -> None:
        nonlocal last, shown
        moment = time.monotonic()
        if stream.isatty() and moment - started > _SHORT_S and moment - last > _APART_S:
            last, shown = moment, shown or _drawn(what, stream)
            shown.tell(done, total)

    try:
        yield tell
    finally:
        if shown is not None:
            shown.end()


def _drawn(what: str, stream: TextIO) -> _Bar | _Count:
    """A bar, or without rich the numbers alone."""
    try:
        return _Bar(what, stream)
    except ModuleNotFoundError:
        return _Count(what, stream)


class _Bar:
    """A bar of rich, with the time that is left; log lines are printed above it.

    Raises:
        ModuleNotFoundError: rich is not installed.
    """

    def __init__(self, what: str, stream: TextIO) -> None:
        from rich import progress
        from rich.console import Console

        columns = (
            progress.BarColumn(),
            progress.MofNCompleteColumn(),
            progress.TextColumn("{task.description}"),
            progress.TimeRemainingColumn(),
        )
        console = Console(file=stream, highlight=False)
        # It is drawn when something is told, and needs no thread of its own.
        self._bars = progress.Progress(
            *columns, console=console, auto_refresh=False, transient=True, redirect_stdout=False
        )
        self._bar = self._bars.add_task(what, total=None)
        self._around = ExitStack()
        self._around.enter_context(logged_above())
        self._around.enter_context(self._bars)

    def tell(self, done: int, total: int | None) -> None:
        """Shows numbers."""
        self._bars.update(self._bar, completed=done, total=total, refresh=True)

    def end(self) -> None:
        """Takes the bar away."""
        self._around.close()


class _Count:
    """The numbers alone, in one line."""

    def __init__(self, what: str, stream: TextIO) -> None:
        self._what, self._stream = what, stream

    def tell(self, done: int, total: int | None) -> None:
        """Shows numbers."""
        self._stream.write(f"\r{done} {self._what}" if total is None else f"\r{done} of {total} {self._what}")
        self._stream.flush()

    def end(self) -> None:
        """Takes the line away."""
        self._stream.write("\r\033[K")
        self._stream.flush()


@contextmanager
def logged_above() -> Generator[None]:
    """Log lines go to whatever is the standard error then: a picture of rich replaces it, and prints them above."""
    handlers = cast(
        "list[logging.StreamHandler[TextIO]]",
        [handler for handler in logging.getLogger().handlers if type(handler) is logging.StreamHandler],
    )
    before = [handler.stream for handler in handlers]
    for handler in handlers:
        handler.setStream(cast("TextIO", _StandardError()))
    try:
        yield
    finally:
        for handler, stream in zip(handlers, before, strict=True):
            handler.setStream(stream)


class _StandardError(io.TextIOBase):
    """Writes to the standard error of the moment."""

    def write(self, text: str, /) -> int:
        """Writes text; returns its length."""
        return sys.stderr.write(text)

    def flush(self) -> None:
        """Has the text written out."""
        sys.stderr.flush()
