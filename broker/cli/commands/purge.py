"""`broker purge RUN`: delete everything of a run."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from typing import TYPE_CHECKING

from broker.cli import options
from broker.cli.confirmation import confirmed
from broker.cli.failure import EXIT_FINDING
from broker.cli.output import Output
from broker.errors.words import count, listing

if TYPE_CHECKING:
    from broker.inspection.stats import Stats


def configure(parser: ArgumentParser) -> None:
    """Add the command's arguments."""
    options.add_run(parser)
    parser.add_argument("--yes", action="store_true", help="do not ask")
    options.add_url(parser)
    options.add_json(parser)
    options.add_examples(parser, "  broker purge math-7b/eval\n  broker purge math-7b/eval --yes     # in scripts")


def run(namespace: Namespace, output: Output) -> int:
    """Asks, then deletes the run. A trainer that still runs is refused from then on."""
    with options.connected(namespace) as operator:
        if not namespace.yes:
            effect = f"This deletes run {namespace.run} for good. {_loss(operator.stats(namespace.run))}"
            if not confirmed(output, effect, word=namespace.run, word_is="the run's name"):
                output.note("nothing was deleted")
                return EXIT_FINDING
        with output.progress("keys deleted") as progress:
            keys = operator.purge(namespace.run, progress)
    if output.as_json:
        output.json({"run": namespace.run, "keys_deleted": keys})
    else:
        output.line(f"run {namespace.run} is gone: {count(keys, 'key')} deleted")
    return 0


def _loss(stats: Stats) -> str:
    """The data that would be deleted, in words."""
    tasks = {"waiting": stats.pending + stats.delayed, "running": stats.running, "ready": stats.ready + stats.batched}
    lost = [count(number, f"{state} task") for state, number in tasks.items() if number]
    lost.append(f"the record of {count(stats.consumed, 'consumed task')}")
    connected = stats.sessions - stats.lapsed
    alive = f" {count(connected, 'worker is', 'workers are')} connected." if connected else ""
    return f"It is at version {stats.version} and holds {listing(lost)}.{alive}"
