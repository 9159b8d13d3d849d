"""`broker prioritise RUN TASK=PRIORITY ...`: tasks that wait are started earlier or later."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace

from broker.cli import options
from broker.cli.answers import report
from broker.cli.output import Output


def configure(parser: ArgumentParser) -> None:
    """Add the command's arguments."""
    options.add_run(parser)
    parser.add_argument(
        "priorities", nargs="+", metavar="TASK=PRIORITY", help="-1000 to 1000; larger ones are started first"
    )
    options.add_url(parser)
    options.add_json(parser)
    options.add_examples(
        parser,
        "  broker prioritise math-7b gsm8k/17=10 gsm8k/18=-5\n\n"
        "exit codes: 0 all were changed, 1 one was not: it does not wait, or is unknown",
    )


def run(namespace: Namespace, output: Output) -> int:
    """Changes the priorities; exit 1 if one of them could not be."""
    from broker.errors import BadArgument

    priorities: dict[str, int] = {}
    for pair in namespace.priorities:
        task, _, text = pair.rpartition("=")
        number = text.removeprefix("-")
        if not task or not (number.isascii() and number.isdecimal() and len(number) < 20):
            raise BadArgument(argument="priorities", given=pair, expected="TASK=PRIORITY, such as gsm8k/17=10")
        priorities[task] = int(text)
    with options.connected(namespace) as operator:
        answers = operator.prioritise(namespace.run, priorities)
    return report(output, answers, wanted="prioritised")
