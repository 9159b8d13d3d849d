"""Prints for commands: JSON for programs, tables for terminals, aligned text for pipes and without rich."""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Generator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TextIO

from broker.cli.failure import writing_output
from broker.cli.plain import to_plain
from broker.cli.progress import ShowProgress, logged_above, progress
from broker.logs import json_line

if TYPE_CHECKING:
    from rich.console import Console, RenderableType


@dataclass(frozen=True, slots=True)
class Table:
    """A table of text.

    Args:
        columns: the headings; all empty: none.
        rows: the cells.
        title: above the table.
        numeric: the columns, by index, that are aligned right.
        optional: the columns that a terminal too narrow for all leaves out, the first of these first. The others are
            then not broken, whatever their width.
    """

    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    title: str = ""
    numeric: frozenset[int] = field(default_factory=frozenset[int])
    optional: tuple[int, ...] = ()

    def without(self, left_out: frozenset[int]) -> Table:
        """This table without some of its columns."""
        kept = [index for index in range(len(self.columns)) if index not in left_out]
        return Table(
            [self.columns[index] for index in kept],
            [[row[index] for index in kept] for row in self.rows],
            self.title,
            frozenset(place for place, index in enumerate(kept) if index in self.numeric),
        )


class Output:
    """The standard output of one command.

    Args:
        as_json: print data as JSON and nothing else on standard output.
        log_format: `json`: notes on standard error are lines of a log in JSON.
        stdout, stderr: the streams, replaced in tests.
    """

    def __init__(
        self,
        *,
        as_json: bool = False,
        log_format: str = "text",
        stdout: TextIO | None = None,
        stderr: TextIO | None = None,
    ) -> None:
        self.as_json, self._log_format = as_json, log_format
        self._stdout = stdout or sys.stdout
        self._stderr = stderr or sys.stderr
        self._console: Console | None = None

    @property
    def interactive(self) -> bool:
        """Whether the output is a terminal."""
        return self._stdout.isatty()

    def line(self, text: str = "") -> None:
        """Print one line of text.

        Raises:
            OutputFailure: standard output does not take it.
            BrokenPipeError: its reader has gone.
        """
        with writing_output():
            print(text, file=self._stdout, flush=True)

    def note(self, text: str) -> None:
        """Prints text beside the data, on standard error, so that a pipe holds data only."""
        told = json_line("broker.cli", logging.INFO, text) if self._log_format == "json" else text
        print(told, file=self._stderr, flush=True)

    def json(self, value: Any) -> None:
        """Print one value as one line of JSON."""
        self.line(json.dumps(to_plain(value), ensure_ascii=False, separators=(", ", ": ")))

    @staticmethod
    def plain(value: Any) -> Any:
        """A value as JSON types."""
        return to_plain(value)

    def progress(self, what: str) -> AbstractContextManager[ShowProgress]:
        """Shows how far long work is, on standard error when that is a terminal; silent elsewhere and for short work.

        Args:
            what: the unit of the numbers, in words.

        Returns:
            a block that yields a function, which takes the number done, and the number in all if it is known.
        """
        return progress(what, self._stderr)

    def table(self, table: Table) -> None:
        """Print a table: drawn on a terminal, aligned in a pipe."""
        console = self._terminal()
        if console is None:
            self.line(aligned(table))
        elif (fitting := _fitting(table, console)) is None:
            self.line(aligned(table.without(frozenset(table.optional))))  # the terminal wraps lines and breaks no cell
        else:
            console.print(_drawn(fitting))

    def tables(self, tables: Sequence[Table]) -> None:
        """Prints several tables: below each other in a pipe; on a terminal, all but the first side by side."""
        console = self._terminal()
        if console is None:
            self.line("\n\n".join(aligned(table) for table in tables))
        else:
            console.print(_laid_out(tables))

    @contextmanager
    def screen(self) -> Generator[Console | None]:
        """The terminal for a picture that the caller draws; None: the output is no terminal, is JSON, or lacks rich.

        Within it, log lines are printed above the picture.
        """
        console = None if self.as_json else self._terminal()
        if console is None:
            yield None
            return
        with logged_above():
            yield console

    def _terminal(self) -> Console | None:
        # rich is for terminals only: in a pipe it would fold columns to 80 characters
        if not self.interactive:
            return None
        if self._console is None:
            try:
                from rich.console import Console
            except ModuleNotFoundError:
                return None
            self._console = Console(file=self._stdout, highlight=False)
        return self._console


def aligned(table: Table) -> str:
    """A table as lines of text with its columns aligned, two spaces apart."""
    grid = [list(row) for row in table.rows]
    if any(table.columns):
        grid.insert(0, list(table.columns))
    widths = [max((len(row[index]) for row in grid), default=0) for index in range(len(table.columns))]
    lines = [table.title] if table.title else []
    for row in grid:
        cells = (
            cell.rjust(width) if index in table.numeric else cell.ljust(width)
            for index, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        lines.append("  ".join(cells).rstrip())
    return "\n".join(lines)


def _laid_out(tables: Sequence[Table]) -> RenderableType:
    from rich.columns import Columns
    from rich.console import Group

    first, *rest = (_drawn(table) for table in tables)
    return Group(first, Columns(rest, padding=(0, 4))) if rest else first


def _fitting(table: Table, console: Console) -> Table | None:
    """The table with as many of its optional columns as the terminal is wide enough for; None: it is too narrow."""
    if not table.optional:
        return table
    for number in range(len(table.optional) + 1):
        narrowed = table.without(frozenset(table.optional[:number]))
        if _width(narrowed, console) <= console.width:
            return narrowed
    return None


def _width(table: Table, console: Console) -> int:
    """The width of a table that nothing narrows."""
    from rich.measure import Measurement

    widest = console.options.update(max_width=100_000)
    return Measurement.get(console, widest, _drawn(table)).maximum


def _drawn(table: Table) -> RenderableType:
    from rich.box import SIMPLE_HEAD
    from rich.markup import escape
    from rich.table import Table as RichTable

    drawn = RichTable(
        title=escape(table.title) or None,
        title_justify="left",
        title_style="bold",
        header_style="bold",
        box=SIMPLE_HEAD,
        show_header=any(table.columns),
    )
    for index, column in enumerate(table.columns):
        drawn.add_column(escape(column), justify="right" if index in table.numeric else "left", overflow="fold")
    for row in table.rows:
        drawn.add_row(*(escape(cell) for cell in row))
    return drawn
