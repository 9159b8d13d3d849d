"""`broker tail RUN`: every transition of a run, as it happens."""

from __future__ import annotations

from argparse import ArgumentParser, ArgumentTypeError, Namespace
from typing import TYPE_CHECKING

from broker.cli import options, transitions
from broker.cli.failure import CommandFailure
from broker.cli.output import Output

if TYPE_CHECKING:
    from broker.operator import Event

#: How long one look waits for new events, in seconds.
_WAIT_S = 2.0
#: Entries read at a time; one holds all transitions of a call.
_PAGE = 200


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
    """Print events until there are enough of them, or Ctrl-C."""
    left: int | None = namespace.count
    connection = options.connected if namespace.no_follow else options.following
    with connection(namespace) as operator:
        if operator.stats(namespace.run).config.events_maxlen == 0:
            raise CommandFailure(
                f"run {namespace.run} keeps no events: its events_maxlen is 0.\n"
                "A trainer changes that with RunConfig(events_maxlen=10_000, ...) and update=True."
            )
        position: str = namespace.start
        if position in ("start", "now"):
            position = "-" if position == "start" else operator.last_event_id(namespace.run)
        while left is None or left > 0:
            events = operator.events(namespace.run, position, _PAGE, 0.0 if namespace.no_follow else _WAIT_S)
            shown = [(event, *transition) for event in events for transition in event.transitions][:left]
            for event, kind, words in shown:
                _show(event, kind, words.split(), output)
            if left is not None:
                left -= len(shown)
            if events:
                position = events[-1].id
            elif namespace.no_follow:
                break
    return 0


def _show(event: Event, kind: str, words: list[str], output: Output) -> None:
    at_ms = int(event.id.partition("-")[0])
    if output.as_json:
        output.json({"id": event.id, "at_ms": at_ms, "event": kind, **transitions.named(kind, words)})
    else:
        output.line(f"{transitions.clock(at_ms)}  {kind:<8}  {transitions.sentence(kind, words)}")


def _starting_point(text: str) -> str:
    if text in ("start", "now"):
        return text
    milliseconds, dash, number = text.partition("-")
    if not _is_half(milliseconds) or (dash and not _is_half(number)):
        raise ArgumentTypeError(f"{text!r} is neither 'start', 'now' nor an event's id like 1764000000123-0")
    return text


def _is_half(text: str) -> bool:
    """Whether it can be the time or the number of an event's id: a server keeps each in 64 bits."""
    return text.isascii() and text.isdecimal() and len(text) <= 20 and int(text) < 2**64
