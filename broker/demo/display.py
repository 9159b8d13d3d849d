"""Shows a run while it goes: a live picture on a terminal, plain lines elsewhere. Both write to standard error."""

from __future__ import annotations

import sys
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final, TextIO

import numpy as np
from rich.bar import Bar
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from broker.demo.options import DemoOptions, Summary
from broker.inspection.judge import Totals
from broker.inspection.stats import Stats

#: The highest return: CartPole-v1 cuts an episode there.
_MOST: Final = 500

_CURVE_HEIGHT: Final = 8
_BAR_WIDTH: Final = 24
_REFRESH_HZ: Final = 8
_BLOCKS: Final = " ▁▂▃▄▅▆▇█"

#: How many deeds of chaos the picture shows, and how many versions behind.
_DEEDS_SHOWN: Final = 4
_BEHIND_SHOWN: Final = 12


@dataclass(frozen=True, slots=True)
class View:
    """One look at the run.

    Attributes:
        options: of the demo.
        summary: the summary up to now.
        stats: the broker's numbers.
        totals: counts of the event log.
        returns: mean return of each step so far.
        frozen: how many workers are frozen.
        deeds: the deeds of chaos, in words.
    """

    options: DemoOptions
    summary: Summary
    stats: Stats
    totals: Totals
    returns: Sequence[float]
    frozen: int
    deeds: Sequence[str]


class PlainLines:
    """A line for each step and each deed of chaos.

    Args:
        stream: the stream to write to.
    """

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._steps = 0
        self._deeds = 0

    def show(self, view: View) -> None:
        """Writes the new lines."""
        summary, stats = view.summary, view.stats
        for deed in view.deeds[self._deeds :]:
            self._write(f"{summary.seconds:6.1f} s  chaos: {deed}")
        self._deeds = len(view.deeds)
        for step in range(self._steps, len(view.returns)):
            self._write(
                f"{summary.seconds:6.1f} s  step {step + 1}/{view.options.steps}  return {view.returns[step]:.1f}"
                f"  capacity {stats.capacity}  running {stats.running}  ready {stats.ready}"
                f"  staleness {summary.max_staleness_seen}  requeued {summary.requeued}  late {summary.late_refused}"
            )
        # After a recovery, steps are made and shown again.
        self._steps = len(view.returns)

    def _write(self, line: str) -> None:
        self._stream.write(line + "\n")
        self._stream.flush()


@contextmanager
def display(*, quiet: bool) -> Generator[Callable[[View], None]]:
    """Yields a function that shows a view: as a picture if standard error is a terminal, unless `quiet`."""
    if quiet or not sys.stderr.isatty():
        yield PlainLines(sys.stderr).show
    else:
        with Live(console=Console(stderr=True), refresh_per_second=_REFRESH_HZ) as live:
            yield lambda view: live.update(picture(view, live.console.width))


def picture(view: View, width: int) -> RenderableType:
    """The curve of returns, the counters, and how stale the rollouts were, for a console of `width` columns."""
    options, summary, staleness = view.options, view.summary, view.totals.staleness
    room = max(20, width - 12)
    wide = max(1, room // options.steps)
    lines = curve(np.repeat(view.returns, wide).tolist(), room, _CURVE_HEIGHT, _MOST)
    labels = {0: f"{_MOST:>4} ", _CURVE_HEIGHT - 1: "   0 "}
    chart = Text("\n".join(labels.get(i, "     ") + line for i, line in enumerate(lines)), style="green")

    left = Table.grid(padding=(0, 2))
    for name, value in _counters(view).items():
        left.add_row(Text(name, style="dim"), value)
    right = Table.grid(padding=(0, 1))
    for behind in range(min(options.max_staleness, _BEHIND_SHOWN) + 1):
        share = staleness[behind] / max(1, staleness.total())
        right.add_row(f"{behind} behind", Bar(1.0, 0.0, share, width=_BAR_WIDTH, color="cyan"), f"{share:4.0%}")
    body = Table.grid(expand=True)
    body.add_column(ratio=1)
    body.add_column(ratio=1)
    body.add_row(left, right)
    parts: list[RenderableType] = [chart, Text(""), body]
    for told, style in ((view.deeds, "yellow"), (summary.violations, "bold red")):
        if told:
            parts.append(Text("\n".join(told[-_DEEDS_SHOWN:]), style=style))
    return Panel(
        Group(*parts),
        title=f"CartPole: mean return, step {len(view.returns)} of {options.steps}",
        subtitle=f"{options.run} on {summary.server}, {summary.seconds:.0f} s",
    )


def curve(values: Sequence[float], width: int, height: int, top: float) -> list[str]:
    """A filled curve.

    Args:
        values: from left to right; if they are more than the columns, the mean of equal pieces is shown.
        width: columns.
        height: lines.
        top: the value that fills a column.

    Returns:
        The lines, the highest first, each `width` wide.
    """
    if len(values) > width:
        values = [float(piece.mean()) for piece in np.array_split(values, width)]
    eighths = [round(min(max(value / top, 0.0), 1.0) * height * 8) for value in values]
    lines = [[_BLOCKS[min(max(level - line * 8, 0), 8)] for level in eighths] for line in reversed(range(height))]
    return ["".join(line).ljust(width) for line in lines]


def _counters(view: View) -> dict[str, str]:
    summary, stats = view.summary, view.stats
    late = ", ".join(f"{count} {answer}" for answer, count in sorted(view.totals.late.items()))
    frozen = f" ({view.frozen} frozen)" if view.frozen else ""
    return {
        "return": f"{view.returns[-1]:.1f}" if view.returns else "-",
        "version": str(stats.version),
        "capacity": str(stats.capacity),
        "running": str(stats.running),
        "ready": str(stats.ready),
        "consumed": str(summary.consumed),
        "handed out again": str(summary.requeued),
        "late, refused": f"{summary.late_refused}{f' ({late})' if late else ''}",
        "workers": f"{view.options.workers}{frozen}, {summary.workers_killed} killed",
        "trainers": f"1, {summary.trainer_kills} killed",
    }
