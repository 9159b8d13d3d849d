"""Numbers as text: a curve of blocks and bars."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Final

_BLOCKS: Final = " ▁▂▃▄▅▆▇█"


def curve(values: Sequence[float], width: int, height: int, top: float) -> list[str]:
    """A filled curve.

    Args:
        values: from left to right; averaged in equal pieces where there are more than columns.
        width: columns.
        height: lines.
        top: the value that fills a column.

    Returns:
        The lines, the highest first, each `width` wide.
    """
    columns = squeezed(values, width)
    eighths = [round(min(max(value / top, 0.0), 1.0) * height * 8) for value in columns]
    lines: list[str] = []
    for line in reversed(range(height)):
        text = "".join(_BLOCKS[min(max(level - line * 8, 0), 8)] for level in eighths)
        lines.append(text.ljust(width))
    return lines


def squeezed(values: Sequence[float], width: int) -> list[float]:
    """At most `width` values: means of equal pieces."""
    count = len(values)
    if count <= width:
        return list(values)
    edges = [i * count // width for i in range(width + 1)]
    return [sum(values[a:b]) / (b - a) for a, b in pairwise(edges)]


def bar(part: float, width: int) -> str:
    """A bar, `part` (0 to 1) of `width` long, in eighths of a column."""
    eighths = round(min(max(part, 0.0), 1.0) * width * 8)
    whole, rest = divmod(eighths, 8)
    return "█" * whole + (" ▏▎▍▌▋▊▉"[rest] if rest else "")
