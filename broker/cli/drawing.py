"""What pictures of a terminal are made of: lists of names with numbers, pairs, small charts of one line."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import RenderableType
from rich.markup import escape
from rich.table import Table

_BLOCKS = " ▁▂▃▄▅▆▇█"
#: Columns that a name keeps at least.
_LEAST_NAME = 8


def grid(rows: Sequence[tuple[str, RenderableType]]) -> Table:
    """Names with their values, one pair a line."""
    table = Table.grid(padding=(0, 2))
    table.add_column(no_wrap=True, style="dim")
    table.add_column()
    for name, value in rows:
        table.add_row(name, value)
    return table


def name_list(
    title: str,
    columns: Sequence[str],
    rows: Sequence[Sequence[str]],
    selected: int | None,
    *,
    width: int,
    names: int = 1,
) -> Table:
    """A list. Where the terminal is too narrow for it, the first columns, which hold names, lose their middle.

    Args:
        title, columns: the words above it.
        rows: the cells.
        selected: the row that is marked.
        width: of the terminal, in columns.
        names: how many columns hold names.
    """
    table = Table(title=title, title_justify="left", title_style="bold", box=None, padding=(0, 2, 0, 0), pad_edge=False)
    widths = [max(map(len, cells)) for cells in zip(columns, *rows, strict=True)]
    room = width - sum(widths[names:]) - 2 * (len(columns) - 1)
    for index in range(names):  # of two long names each has half; a short one leaves its rest to the other
        share = max(_LEAST_NAME, room // (names - index))
        widths[index] = min(widths[index], share)
        room -= widths[index]
    for column in columns:
        table.add_column(column, header_style="dim", overflow="ellipsis", no_wrap=True)
    for place, row in enumerate(rows):
        cells = [*map(_without_middle, row[:names], widths), *row[names:]]
        table.add_row(*map(escape, cells), style="reverse" if place == selected else None)
    return table


def _without_middle(text: str, width: int) -> str:
    """A name that is too long for its column: its begin and its end, which tell it apart."""
    if len(text) <= width:
        return text
    end = (width - 1) // 2
    return f"{text[: width - 1 - end]}…{text[len(text) - end :]}"


def window(rows: int, cursor_row: int, lines: int) -> range:
    """The rows that are shown, with the selected one among them."""
    first = max(0, min(cursor_row - lines + 1, rows - lines))
    return range(first, min(rows, first + lines))


def sparkline(values: Sequence[float]) -> str:
    """Values as blocks of an eighth of a line; the largest fills it."""
    top = max(values, default=0.0)
    return "".join(_BLOCKS[0 if top <= 0 else round(value / top * 8)] for value in values)


def as_sentence(answer: str) -> str:
    """An answer without its yes or no, as a sentence."""
    text = answer.removeprefix("Yes: ").removeprefix("No: ")
    return text[:1].upper() + text[1:]
