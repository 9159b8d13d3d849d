"""`broker resume RUN`: hand out tasks again."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace

from broker.cli import options
from broker.cli.output import Output


def configure(parser: ArgumentParser) -> None:
    """Add the command's arguments."""
    options.add_run(parser)
    options.add_url(parser)
    options.add_json(parser)
    options.add_examples(parser, "  broker resume math-7b")


def run(namespace: Namespace, output: Output) -> int:
    """Undo pause and drain; waiting workers are woken."""
    with options.connected(namespace) as operator:
        before = operator.resume(namespace.run)
    if output.as_json:
        output.json({"run": namespace.run, "claims": "open", "before": before})
    else:
        output.line(
            f"run {namespace.run} starts work again (was {before})" if before else f"run {namespace.run} was not paused"
        )
    return 0
