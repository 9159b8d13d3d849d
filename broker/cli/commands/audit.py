"""`broker audit RUN`: compares the counters with the sets that they count."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from typing import TYPE_CHECKING

from broker.cli import options
from broker.cli.failure import EXIT_FINDING, EXIT_OK
from broker.cli.output import Output, Table
from broker.errors.words import count

if TYPE_CHECKING:
    from broker.inspection.audit import Audit


def configure(parser: ArgumentParser) -> None:
    """Add the command's arguments."""
    options.add_run(parser)
    parser.add_argument(
        "--repair",
        action="store_true",
        help="rewrite counters that have drifted; the exit code still says that they had",
    )
    parser.add_argument(
        "--deep",
        action="store_true",
        help="also look at every task: does it stand where its record says? Takes a while",
    )
    options.add_url(parser)
    options.add_json(parser)
    options.add_examples(
        parser,
        "  broker audit math-7b && echo fine\n"
        "  broker audit math-7b --repair\n"
        "  broker audit math-7b --deep\n\n"
        "Drift is a bug of the broker, or damage from outside. Please report it with what\n"
        "`broker tail RUN --from start --no-follow --json` prints.",
    )


def run(namespace: Namespace, output: Output) -> int:
    """Recompute the counters; exit 1 if one of them disagreed or a task stands where it should not."""
    with options.connected(namespace) as operator, output.progress("tasks looked at") as progress:
        audit = operator.audit(namespace.run, repair=namespace.repair, deep=namespace.deep, progress=progress)
    if output.as_json:
        output.json(audit)
    else:
        if audit.drift:
            rows = [(name, f"{stored:,}", f"{found:,}") for name, (stored, found) in audit.drift.items()]
            output.table(Table(("counter", "stored", "recomputed"), rows, numeric=frozenset({1, 2})))
        for problem in audit.problems:
            output.line(problem)
        output.line(_conclusion(audit))
    return EXIT_OK if audit.ok else EXIT_FINDING


def _conclusion(audit: Audit) -> str:
    looked = f"; looked at {count(audit.tasks_checked, 'task')}" if audit.tasks_checked else ""
    if audit.ok:
        return f"the counters agree with the structures{looked}"
    if not audit.drift:
        return f"the counters agree, but {count(len(audit.problems), 'task')} stand where they should not{looked}"
    if audit.repaired:
        return f"the counters had drifted and were rewritten{looked}"
    return f"the counters have drifted; --repair rewrites them{looked}"
