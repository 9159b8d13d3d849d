"""`broker dead RUN list|show|retry`: tasks that ended without being trained on."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from broker.cli import options
from broker.cli.answers import report
from broker.cli.failure import EXIT_FINDING, CommandFailure
from broker.cli.output import Output, Table
from broker.errors.words import count
from broker.protocol.ids import worker_of
from broker.protocol.task_row import SLOT_LETTERS

if TYPE_CHECKING:
    from broker.operator import Operator
    from broker.protocol.task_row import FailureRow


def configure(parser: ArgumentParser) -> None:
    """Add the command's arguments."""
    options.add_run(parser)
    parser.add_argument(
        "action", choices=("list", "show", "retry"), nargs="?", default="list", help="what to do (default: list)"
    )
    parser.add_argument("tasks", metavar="TASK", nargs="*", default=[], help="the tasks to show or retry")
    parser.add_argument("--rejected", action="store_true", help="list rejected tasks instead of dead ones")
    parser.add_argument("--all", action="store_true", help="retry all that `list` would list")
    parser.add_argument(
        "--count", type=options.positive_int, default=50, metavar="N", help="list the newest N (default: 50)"
    )
    options.add_url(parser)
    options.add_json(parser)
    options.add_examples(
        parser,
        "  broker dead math-7b list\n"
        "  broker dead math-7b show gsm8k/17        # any task: its slots, who had them, its last error\n"
        "  broker dead math-7b retry gsm8k/17       # all slots open again, nothing counted against them\n"
        "  broker dead math-7b retry --all\n"
        "  broker dead math-7b list --rejected --json",
    )


def run(namespace: Namespace, output: Output) -> int:
    """List, show or retry."""
    if namespace.action == "list" and namespace.tasks:
        raise CommandFailure("list takes no task; `show TASK` says more about one")
    if namespace.action == "show" and not namespace.tasks:
        raise CommandFailure("show which task? broker dead RUN show TASK")
    if namespace.action == "retry" and bool(namespace.tasks) == namespace.all:
        raise CommandFailure("retry which tasks? Either name them, or give --all")
    with options.connected(namespace) as operator:
        match namespace.action:
            case "show":
                return max(_show(operator, namespace.run, task, output) for task in namespace.tasks)
            case "retry":
                return _retry(operator, namespace, output)
            case _:
                return _list(operator, namespace, output)


def _list(operator: Operator, namespace: Namespace, output: Output) -> int:
    kind = "rejected" if namespace.rejected else "dead"
    found = operator.dead(namespace.run, kind, namespace.count)
    if output.as_json:
        for row in found:
            output.json(row)
        return 0
    if not found:
        output.note(f"no {kind} tasks in run {namespace.run}")
        return 0
    rows = [(row.id, _moment(row.at_ms), row.reason) for row in found]
    output.table(Table(("task", "ended", "reason"), rows))
    if len(found) == namespace.count:
        output.note(f"the newest {namespace.count}; --count shows more")
    return 0


def _show(operator: Operator, run_name: str, task_id: str, output: Output) -> int:
    task = operator.task(run_name, task_id)
    if task is None:
        output.note(f"run {run_name} knows no task {task_id}")
        return EXIT_FINDING
    if output.as_json:
        output.json(task)
        return 0
    oldest = "none" if task.oldest < 0 else f"{task.oldest} to {task.newest}"
    enough = "" if task.enough is None else f"ready at {task.enough}, "
    facts = [
        ("state", task.state + (f": {task.reason}" if task.reason else "")),
        ("samples", f"{task.samples}, {enough}at least {task.min_samples} needed"),
        ("place", f"priority {task.priority}, number {task.order}"),
        ("versions", oldest),
        ("requeued", f"{count(task.requeues, 'time')}, {task.stale_requeues} of them as stale"),
        ("errors", f"{count(task.errors, 'slot')} failed with an error"),
        ("payload", count(task.payload_bytes, "byte")),
    ]
    if task.timeout_ms is not None:
        facts.append(("time-out", f"{task.timeout_ms} ms for an attempt" if task.timeout_ms else "none"))
    if task.max_attempts is not None:
        facts.append(("attempts", f"{task.max_attempts} at most for a slot"))
    if task.step >= 0:
        facts.append(("step", f"{task.step}"))
    output.table(Table(("", ""), facts, title=f"task {task.id}"))
    rows = [
        (
            f"{slot.slot}",
            SLOT_LETTERS.get(letter, letter),
            f"{slot.tries}",
            slot.attempt_id,
            worker_of(slot.session),
            _moment(slot.at_ms),
            slot.why,
        )
        for slot in task.slots
        for letter in task.letters[slot.slot : slot.slot + 1]
    ]
    if rows:
        headings = ("slot", "now", "tries", "last attempt", "worker", "claimed", "it ended")
        output.table(Table(headings, rows, numeric=frozenset({0, 2})))
    if task.last_failure is not None:
        _show_failure(task.last_failure, output)
    return 0


def _show_failure(failure: FailureRow, output: Output) -> None:
    fault = ", a fault of its worker" if failure.kind == "worker" else ""
    output.line(f"\nattempt {failure.attempt_id} failed at {_moment(failure.at_ms)}{fault}:")
    output.line(failure.trace.rstrip() or failure.message)


def _retry(operator: Operator, namespace: Namespace, output: Output) -> int:
    tasks: list[str] = namespace.tasks
    if namespace.all:
        kind = "rejected" if namespace.rejected else "dead"
        stats = operator.stats(namespace.run)  # more than max_finished, until their steps are below the floor
        there = stats.rejected if namespace.rejected else stats.dead
        tasks = [row.id for row in operator.dead(namespace.run, kind, there)]
    if not tasks:
        output.note(f"nothing to retry in run {namespace.run}")
    return report(output, operator.retry(namespace.run, tasks), wanted="retried")


def _moment(at_ms: int) -> str:
    return datetime.fromtimestamp(at_ms / 1000, UTC).astimezone().isoformat(sep=" ", timespec="seconds")
