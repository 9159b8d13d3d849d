"""`broker tail RUN`: every transition of a run, as it happens."""

from __future__ import annotations

import time
from argparse import ArgumentParser, ArgumentTypeError, Namespace
from collections.abc import Iterator
from itertools import islice
from typing import TYPE_CHECKING

from broker.cli import options
from broker.cli.failure import CommandFailure
from broker.cli.output import Output
from broker.inspection import transitions

if TYPE_CHECKING:
    from broker.operator import Event, Operator

#: Pause between two looks for new events, in seconds.
_AGAIN_S = 0.1


def configure(parser: ArgumentParser) -> None:
    """Add the command's arguments."""
    options.add_run(parser)
    parser.add_argument(
        "--from",
        dest="start",
        type=_starting_point,
        default="now",
        metavar="WHERE",
        help="start at the oldest event that is kept, at `now`, or after an event's id (default: now)",
    )
    parser.add_argument("--count", type=options.positive_int, metavar="N", help="stop after N events")
    parser.add_argument("--no-follow", action="store_true", help="stop at the newest event instead of waiting for more")
    options.add_url(parser)
    options.add_json(parser)
    options.add_examples(
        parser,
        "  broker tail math-7b\n"
        "  broker tail math-7b --from start --no-follow | grep late\n"
        "  broker tail math-7b --json | jq -r 'select(.event == \"dead\") | .task'",
    )


def run(namespace: Namespace, output: Output) -> int:
    """Prints events until `--count` of them were printed, or Ctrl-C."""
    connection = options.connected if namespace.no_follow else options.following
    with connection(namespace) as operator:
        stats = operator.stats(namespace.run)
        if stats.admission:
            raise CommandFailure(
                f"run {namespace.run} is an admission run: it holds no tasks, and its events tell of none.\n"
                "`broker status --watch` shows its counters as they change."
            )
        if stats.config.events_maxlen == 0:
            raise CommandFailure(
                f"run {namespace.run} keeps no events: its events_maxlen is 0.\n"
                "A trainer changes that with RunConfig(events_maxlen=10_000, ...) and update=True."
            )
        start: str = namespace.start
        if start in ("start", "now"):
            start = "-" if start == "start" else operator.last_event_id(namespace.run)
        told = _told(operator, namespace.run, start, goes_on=not namespace.no_follow)
        for event, kind, words in islice(told, namespace.count):
            _show(event, kind, words.split(), output)
    return 0


def _told(operator: Operator, run: str, after: str, *, goes_on: bool) -> Iterator[tuple[Event, str, str]]:
    """Each transition with its event, up to the newest, or without end."""
    from broker.inspection.events import Follower

    follower = Follower(operator.transport.command, run, after)
    while True:
        for page in follower.pages():
            for event in page.events:
                for kind, words in event.transitions:
                    yield event, kind, words
        if not goes_on:
            return
        time.sleep(_AGAIN_S)


def _show(event: Event, kind: str, words: list[str], output: Output) -> None:
    if output.as_json:
        output.json({"id": event.id, "at_ms": event.at_ms, "event": kind, **transitions.named(kind, words)})
    else:
        output.line(f"{transitions.clock(event.at_ms)}  {kind:<8}  {transitions.sentence(kind, words)}")


def _starting_point(text: str) -> str:
    if text in ("start", "now"):
        return text
    milliseconds, dash, number = text.partition("-")
    if not _is_half(milliseconds) or (dash and not _is_half(number)):
        raise ArgumentTypeError(f"{text!r} is neither 'start', 'now' nor an event's id like 1764000000123-0")
    return text


def _is_half(text: str) -> bool:
    """Whether text can be the time or the number of an event's id: a server keeps each in 64 bits."""
    return text.isascii() and text.isdecimal() and len(text) <= 20 and int(text) < 2**64
