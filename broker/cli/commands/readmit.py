"""`broker readmit RUN [WORKER ...]`: give work again to workers that are quarantined."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace

from broker.cli import options
from broker.cli.failure import EXIT_FINDING
from broker.cli.output import Output
from broker.errors.words import count, listing
from broker.protocol.ids import worker_of


def configure(parser: ArgumentParser) -> None:
    """Add the command's arguments."""
    options.add_run(parser)
    parser.add_argument(
        "workers", nargs="*", metavar="WORKER", help="names of workers (default: all that are quarantined)"
    )
    options.add_url(parser)
    options.add_json(parser)
    options.add_examples(
        parser,
        "  broker readmit math-7b           # all workers that are quarantined\n"
        "  broker readmit math-7b gpu-3     # one of them\n\n"
        "exit codes: 0 workers get work again, 1 none of them was quarantined",
    )


def run(namespace: Namespace, output: Output) -> int:
    """Ends quarantines before their time; the workers ask again within seconds."""
    with options.connected(namespace) as operator:
        sessions = operator.readmit(namespace.run, namespace.workers)
    if output.as_json:
        output.json({"run": namespace.run, "sessions": sessions})
    elif sessions:
        names = listing(dict.fromkeys(worker_of(session) for session in sessions))
        output.line(f"{count(len(sessions), 'worker gets', 'workers get')} work again: {names}")
    else:
        output.line(f"none of these workers of run {namespace.run} was quarantined")
    return 0 if sessions else EXIT_FINDING
