"""`broker finish RUN`: the run is over, workers end by themselves."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace

from broker.cli import options
from broker.cli.output import Output
from broker.errors.words import count


def configure(parser: ArgumentParser) -> None:
    """Add the command's arguments."""
    options.add_run(parser)
    options.add_url(parser)
    options.add_json(parser)
    options.add_examples(parser, "  broker finish math-7b")


def run(namespace: Namespace, output: Output) -> int:
    """Finishes the run; what is held may still be submitted, and tasks that are left stay as they are."""
    name: str = namespace.run
    with options.connected(namespace) as operator:
        left = operator.finish(name)
    if output.as_json:
        output.json({"run": name, "claims": "finished", "left": left})
        return 0
    rest = f" What is left stays as it is: {count(left, 'task')}." if left else ""
    output.line(f"run {name} is finished: workers end, and no further batch is formed.{rest}")
    output.line("To open it again: trainer.enqueue, feed or recover, or a retry of dead tasks.")
    return 0
