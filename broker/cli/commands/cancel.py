"""`broker cancel RUN TASK...`: rejects tasks that are not needed any more."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace

from broker.cli import options
from broker.cli.answers import report
from broker.cli.output import Output


def configure(parser: ArgumentParser) -> None:
    """Add the command's arguments."""
    options.add_run(parser)
    parser.add_argument("tasks", metavar="TASK", nargs="+", help="ids of tasks that are not in a sealed batch yet")
    parser.add_argument("--forget", action="store_true", help="free their records too, also of dead and rejected ones")
    options.add_url(parser)
    options.add_json(parser)
    options.add_examples(
        parser,
        "  broker cancel math-7b gsm8k/17 gsm8k/18\n"
        "  broker cancel math-7b gsm8k/17 --forget\n"
        "Workers on them are told to stop; a task may start over with: broker dead math-7b retry gsm8k/17 --rejected\n"
        "A task that is forgotten does not start over; the trainer may enqueue it again, with again=True.",
    )


def run(namespace: Namespace, output: Output) -> int:
    """Cancel the tasks; exit 1 if one of them could not be."""
    with options.connected(namespace) as operator:
        act = operator.forget if namespace.forget else operator.cancel
        answers = act(namespace.run, namespace.tasks)
    return report(output, answers, wanted="forgotten" if namespace.forget else "cancelled")
