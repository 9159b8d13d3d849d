"""`broker resume RUN`: hand out tasks again; a halt ends only where that is asked for."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace

from broker.cli import options
from broker.cli.failure import EXIT_FINDING
from broker.cli.output import Output
from broker.errors.words import count


def configure(parser: ArgumentParser) -> None:
    """Add the command's arguments."""
    options.add_run(parser)
    parser.add_argument(
        "--halted", action="store_true", help="end a halt, too; first mend what failed: `broker explain RUN` says it"
    )
    options.add_url(parser)
    options.add_json(parser)
    options.add_examples(
        parser,
        "  broker resume math-7b             # ends a pause, or a drain\n"
        "  broker resume math-7b --halted    # ends a halt as well\n\n"
        "exit codes: 0 tasks are handed out again, 1 the run is still halted",
    )


def run(namespace: Namespace, output: Output) -> int:
    """Undo pause, drain and halt; waiting workers are woken."""
    name: str = namespace.run
    with options.connected(namespace) as operator:
        before = operator.resume(name, halted=namespace.halted)
        failures = operator.stats(name).halted
    if output.as_json:
        output.json({"run": name, "claims": "halted" if failures else "open", "before": before})
    elif failures:
        ended = f"the run was {before}, and is now only halted" if before else f"run {name} is halted"
        output.line(f"{ended}: {count(failures, 'failure')} without an accepted result between them.")
        output.line(f"broker explain {name} says what failed. Mend that, then: broker resume {name} --halted")
    else:
        output.line(f"run {name} starts work again (was {before})" if before else f"run {name} was not paused")
    return EXIT_FINDING if failures else 0
