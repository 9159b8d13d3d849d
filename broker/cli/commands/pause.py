"""`broker pause RUN`: stop handing out tasks."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace

from broker.cli import options
from broker.cli.output import Output


def configure(parser: ArgumentParser) -> None:
    """Add the command's arguments."""
    options.add_run(parser)
    parser.add_argument(
        "--drain",
        action="store_true",
        help="go on handing out the missing samples of groups that are started, but start no new ones",
    )
    options.add_url(parser)
    options.add_json(parser)
    options.add_examples(
        parser,
        "  broker pause math-7b            # nothing is handed out\n"
        "  broker pause math-7b --drain    # started groups are finished",
    )


def run(namespace: Namespace, output: Output) -> int:
    """Pauses or drains the run; results of held attempts may still be submitted."""
    mode = "draining" if namespace.drain else "paused"
    with options.connected(namespace) as operator:
        before = operator.pause(namespace.run, mode)
    if output.as_json:
        output.json({"run": namespace.run, "claims": mode, "before": before})
    elif before == mode:
        output.line(f"run {namespace.run} was {mode} already")
    else:
        effect = (
            "groups that are started are finished, no new ones begin" if namespace.drain else "nothing new is started"
        )
        output.line(f"run {namespace.run} is {mode}: {effect}; what is under way may still be submitted.")
        output.line(f"Undo it with: broker resume {namespace.run}")
    return 0
