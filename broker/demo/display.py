"""Shows a run while it goes: a live picture on a terminal, plain lines elsewhere. Both write to standard error."""

from __future__ import annotations

import sys
from contextlib import AbstractContextManager
from types import TracebackType
from typing import TYPE_CHECKING, Final, Protocol, Self, TextIO

from broker.demo.chart import bar, curve
from broker.demo.episodes import MAX_STEPS
from broker.demo.view import View

if TYPE_CHECKING:
    from rich.console import RenderableType

_CURVE_HEIGHT: Final = 8
_BAR_WIDTH: Final = 24
_REFRESH_HZ: Final = 8

#: Deeds of chaos that the picture has room for.
_DEEDS_SHOWN: Final = 4


class Display(AbstractContextManager["Display"], Protocol):
    """Anything that can be shown a view again and again."""

    def show(self, view: View) -> None:
        """Shows the newest view."""
        ...


class PlainLines:
    """A line for each step and each deed of chaos.

    Args:
        stream: where to; None: standard error.
    """

    def __init__(self, stream: TextIO | None = None) -> None:
        self._stream = stream or sys.stderr
        self._steps = 0
        self._deeds = 0

    def show(self, view: View) -> None:
        """Writes what is new."""
        for deed in view.deeds[self._deeds :]:
            self._write(f"{view.seconds:6.1f} s  chaos: {deed}")
        self._deeds = len(view.deeds)
        for step in range(self._steps, len(view.returns)):
            self._write(
                f"{view.seconds:6.1f} s  step {step + 1}/{view.steps}  return {view.returns[step]:.1f}"
                f"  capacity {view.capacity}  running {view.running}  ready {view.ready}"
                f"  staleness {max(view.staleness, default=0)}  requeued {view.requeued}  late {view.late.total()}"
            )
        # Back at a checkpoint, steps are done and told again.
        self._steps = len(view.returns)

    def _write(self, line: str) -> None:
        self._stream.write(line + "\n")
        self._stream.flush()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        pass


class LivePicture:
    """The curve of returns, the counters, and how stale the rollouts were."""

    def __init__(self) -> None:
        from rich.console import Console
        from rich.live import Live

        self._console = Console(stderr=True)
        self._live = Live(console=self._console, refresh_per_second=_REFRESH_HZ, transient=False)

    def show(self, view: View) -> None:
        """Draws it."""
        self._live.update(picture(view, self._console.width))

    def __enter__(self) -> Self:
        self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._live.stop()


def make_display(*, quiet: bool) -> Display:
    """The picture where standard error is a terminal and `quiet` is not asked for, else plain lines."""
    return PlainLines() if quiet or not sys.stderr.isatty() else LivePicture()


def picture(view: View, width: int) -> RenderableType:
    """The whole picture, for a console of `width` columns."""
    from rich.console import Group
    from rich.panel import Panel
    from rich.table import Table
    from rich.text import Text

    room = max(20, width - 12)
    wide = max(1, room // view.steps)
    lines = curve([value for value in view.returns for _ in range(wide)], room, _CURVE_HEIGHT, MAX_STEPS)
    labels = {0: f"{MAX_STEPS:>4} ", _CURVE_HEIGHT - 1: "   0 "}
    chart = Text("\n".join(labels.get(i, "     ") + line for i, line in enumerate(lines)), style="green")

    left = Table.grid(padding=(0, 2))
    for name, value in _counters(view):
        left.add_row(Text(name, style="dim"), value)
    right = Table.grid(padding=(0, 1))
    total = max(1, view.staleness.total())
    for behind in range(min(view.max_staleness, 12) + 1):
        share = view.staleness[behind] / total
        right.add_row(f"{behind} behind", Text(bar(share, _BAR_WIDTH), style="cyan"), f"{share:4.0%}")
    body = Table.grid(expand=True)
    body.add_column(ratio=1)
    body.add_column(ratio=1)
    body.add_row(left, right)
    parts: list[RenderableType] = [chart, Text(""), body]
    if view.deeds:
        parts.append(Text("\n".join(view.deeds[-_DEEDS_SHOWN:]), style="yellow"))
    if view.violations:
        parts.append(Text("\n".join(view.violations[-_DEEDS_SHOWN:]), style="bold red"))
    return Panel(
        Group(*parts),
        title=f"CartPole: mean return, step {len(view.returns)} of {view.steps}",
        subtitle=f"{view.run} on {view.server}, {view.seconds:.0f} s",
    )


def _counters(view: View) -> list[tuple[str, str]]:
    late = ", ".join(f"{count} {answer}" for answer, count in sorted(view.late.items()))
    return [
        ("return", f"{view.returns[-1]:.1f}" if view.returns else "-"),
        ("version", str(view.version)),
        ("capacity", str(view.capacity)),
        ("running", str(view.running)),
        ("ready", str(view.ready)),
        ("consumed", str(view.consumed)),
        ("handed out again", str(view.requeued)),
        ("late, refused", f"{view.late.total()}{f' ({late})' if late else ''}"),
        ("workers", f"{view.workers}{f' ({view.frozen} frozen)' if view.frozen else ''}, {view.killed} killed"),
        ("trainers", f"1, {view.trainers_killed} killed"),
    ]
