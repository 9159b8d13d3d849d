"""`broker watch [RUN]`: a live picture of a run, or of all runs."""

from __future__ import annotations

import time
from argparse import ArgumentParser, Namespace
from typing import TYPE_CHECKING, Final

from broker.cli import options
from broker.cli.failure import EXIT_OK
from broker.cli.output import Output
from broker.cli.plain import to_plain
from broker.inspection.history import History, ended, results, waste

if TYPE_CHECKING:
    from rich.console import Console

    from broker.cli.picture import Cursor
    from broker.inspection.stats import Stats
    from broker.operator import Operator

#: Pages of the event log that one look reads; what comes faster is left out of the last transitions.
MOST_PAGES: Final = 3
#: How many events before the first look are read.
EVENTS_BEFORE: Final = 500
#: Lines of the picture beside its lists.
_FIXED_LINES = 26


def configure(parser: ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.add_argument("run", metavar="RUN", nargs="?", help="the run's name; without it all runs are shown")
    options.add_interval(parser)
    options.add_url(parser)
    options.add_json(parser)
    options.add_examples(
        parser,
        "  broker watch math-7b               q quits, arrows select, enter shows details\n"
        "  broker watch                       all runs; enter opens one, esc goes back\n"
        "  broker watch math-7b --json        one object a look: numbers, rates, who holds what",
    )


def run(namespace: Namespace, output: Output) -> int:
    """Show the picture until q or Ctrl-C."""
    if namespace.run is None:
        return _watch_all(namespace, output)
    with options.following(namespace) as operator:
        return watch_run(operator, namespace.run, namespace.interval, output)


def watch_run(operator: Operator, run: str, interval_s: float, output: Output) -> int:
    """Shows a run: as a picture on a terminal, as text or JSON elsewhere, until q or Ctrl-C."""
    history = History()
    if output.as_json:
        while True:
            explanation = operator.explain(run)
            history.add(explanation.now_ms / 1000, explanation.stats)
            output.json(
                {
                    **to_plain(explanation),
                    "results_per_s": history.rate(results),
                    "ended_per_s": history.rate(ended),
                    "progress": history.progress(),
                    "waste": waste(explanation.stats),
                }
            )
            time.sleep(interval_s)
    with output.screen() as console:
        if console is None:
            from broker.cli.commands.status import tables

            while True:
                output.tables(tables(operator.stats(run)))
                output.line()
                time.sleep(interval_s)
        _picture_of(operator, run, interval_s, console, history)
    return EXIT_OK


def _picture_of(
    operator: Operator, run: str, interval_s: float, console: Console, history: History, *, from_list: bool = False
) -> bool:
    """Shows the picture on a terminal until q; True: escape was pressed, and the list of all runs comes again."""
    from rich.live import Live

    from broker.cli.keyboard import keys
    from broker.cli.picture import Cursor, picture
    from broker.inspection.events import Follower
    from broker.inspection.timeline import Timeline

    cursor, timeline = Cursor(from_list=from_list), Timeline()
    follower = Follower.of_the_last(operator.transport.command, run, EVENTS_BEFORE)
    with Live(console=console, auto_refresh=False, screen=True) as live, keys() as key:
        while True:
            explanation = operator.explain(run)
            history.add(explanation.now_ms / 1000, explanation.stats)
            timeline.read(follower, MOST_PAGES)
            until = time.monotonic() + interval_s
            while (left_s := until - time.monotonic()) > 0:
                lines = max(2, (console.height - _FIXED_LINES) // 3)
                shown = picture(explanation, history, timeline, cursor, width=console.width, lines=lines)
                live.update(shown, refresh=True)
                pressed = key(left_s)
                if pressed == "quit":
                    return False
                if pressed == "escape" and from_list and not cursor.is_open:
                    return True
                move(cursor, pressed, len(explanation.sessions if cursor.of == "workers" else explanation.held))


def move(cursor: Cursor, pressed: str, rows: int) -> None:
    """Moves the cursor by a key, in a list of so many rows."""
    if pressed == "tab":
        cursor.of, cursor.row = ("slots" if cursor.of == "workers" else "workers"), 0
    elif pressed == "up":
        cursor.row = max(0, min(cursor.row, rows - 1) - 1)
    elif pressed == "down":
        cursor.row = max(0, min(cursor.row + 1, rows - 1))
    elif pressed == "enter":
        cursor.is_open = not cursor.is_open
    elif pressed == "escape":
        cursor.is_open = False


def _watch_all(namespace: Namespace, output: Output) -> int:
    """Shows all runs; on a terminal one of them can be opened."""
    histories: dict[str, History] = {}
    with options.connected(namespace) as operator, output.screen() as console:
        if console is None:
            while True:
                for stats, _ in _looks(operator, histories):
                    output.json(stats) if output.as_json else output.line(_line(stats))
                time.sleep(namespace.interval)
        while (opened := _chosen(operator, histories, console, namespace.interval)) is not None:
            if not _picture_of(operator, opened, namespace.interval, console, histories[opened], from_list=True):
                break
    return EXIT_OK


def _looks(operator: Operator, histories: dict[str, History]) -> list[tuple[Stats, History]]:
    """A look at each run; runs of other releases and other programs' keys are left out."""
    from broker.errors import BrokerError

    rows: list[tuple[Stats, History]] = []
    for name in sorted(operator.runs()):
        try:
            stats = operator.stats(name)
        except BrokerError as error:
            if error.code not in {"NORUN", "SCHEMA", "ERR"}:
                raise
            continue
        history = histories.setdefault(name, History())
        history.add(time.time(), stats)
        rows.append((stats, history))
    return rows


def _chosen(operator: Operator, histories: dict[str, History], console: Console, interval_s: float) -> str | None:
    """Shows all runs until one is opened; None: q was pressed."""
    from rich.live import Live

    from broker.cli.keyboard import keys
    from broker.cli.picture import overview

    selected = 0
    with Live(console=console, auto_refresh=False, screen=True) as live, keys() as key:
        while True:
            rows = _looks(operator, histories)
            selected = max(0, min(selected, len(rows) - 1))
            live.update(overview(rows, selected, width=console.width), refresh=True)
            pressed = key(interval_s)
            if pressed == "quit":
                return None
            if pressed == "enter" and rows:
                return rows[selected][0].run
            selected += {"up": -1, "down": 1}.get(pressed, 0)


def _line(stats: Stats) -> str:
    return f"{stats.run}  version {stats.version}  running {stats.running}  ready {stats.ready}"
