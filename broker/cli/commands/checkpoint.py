"""`broker checkpoint RUN PATH`: write a checkpoint of a run by hand, and commit it."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace

from broker.cli import options
from broker.cli.output import Output
from broker.errors.words import count


def configure(parser: ArgumentParser) -> None:
    """Add the command's arguments."""
    options.add_run(parser)
    parser.add_argument(
        "path",
        type=options.file_path,
        metavar="PATH",
        help="what to call the file; its own name, with number, epoch and version, is printed",
    )
    parser.add_argument("--full", action="store_true", help="write the unfinished tasks themselves, too")
    options.add_url(parser)
    options.add_json(parser)
    options.add_examples(
        parser, "  broker checkpoint math-7b ckpt/broker.json\n  broker checkpoint math-7b ckpt/broker.json --full"
    )


def run(namespace: Namespace, output: Output) -> int:
    """Writes the file whole or not at all, and commits it. The run keeps nothing for it, and the trainer goes on."""
    with options.connected(namespace) as operator, output.progress("tasks looked at") as progress:
        made = operator.checkpoint(namespace.run, namespace.path, full=namespace.full, progress=progress)
    tasks = len(made.unfinished)
    if output.as_json:
        beside = None if made.tasks_path is None else str(made.tasks_path)
        row = {"run": made.run, "version": made.version, "epoch": made.epoch, "unfinished": tasks}
        output.json({**row, "cursor": made.cursor, "path": str(made.path), "tasks_path": beside})
    else:
        output.line(f"{made.path}: run {made.run} at version {made.version}, {count(tasks, 'unfinished task')}")
        if made.tasks_path is not None:
            output.line(f"{made.tasks_path}: the tasks themselves; keep both files together")
        output.note(
            "It can be recovered from until the run's own checkpoints have gone past it (status: recoverable from)."
        )
    return 0
