"""`broker recover RUN`: take a run to a checkpoint or a version."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from pathlib import Path
from typing import TYPE_CHECKING

from broker.cli import options
from broker.cli.confirmation import confirmed
from broker.cli.failure import EXIT_FINDING
from broker.cli.output import Output, Table
from broker.errors.words import count

if TYPE_CHECKING:
    from broker.operator import Operator
    from broker.recovery.checkpoint import Checkpoint
    from broker.recovery.recover import RecoveryReport

_CAUSES = {
    "lost_step": "were in a batch of a lost step, and their results cannot be used",
    "lost_policy": "have a sample by a policy that is lost",
    "bytes_gone": "have results whose bytes are gone",
    "discarded": "were rejected in a lost step",
    "dead": "died in a lost step",
    "in_flight": "were in flight",
    "no_place": "came back from lost steps, and the next batches have no place for them in time",
}


def configure(parser: ArgumentParser) -> None:
    """Add the command's arguments."""
    options.add_run(parser)
    target = parser.add_mutually_exclusive_group(required=True)
    target.add_argument(
        "--checkpoint",
        metavar="PATH",
        type=options.file_path,
        help="a checkpoint of the broker (of several under this name the newest that counts), or what another trainer "
        "left behind: AReaL's recover_info/, Hugging Face's "
        "trainer_state.json, Megatron's or verl's latest_checkpointed_iteration.txt",
    )
    target.add_argument(
        "--version", metavar="N", type=int, help="this version, without a file: counters by the version alone"
    )
    parser.add_argument(
        "--in-flight",
        choices=("keep", "requeue"),
        default="keep",
        help="attempts in flight whose policy survives: keep them (default) or take them back",
    )
    parser.add_argument("--allow-loss", action="store_true", help="go below the floor although tasks were freed")
    parser.add_argument("--dry-run", action="store_true", help="print the whole report and change nothing")
    parser.add_argument("--yes", action="store_true", help="do not ask")
    options.add_url(parser)
    options.add_json(parser)
    options.add_examples(
        parser,
        "  broker recover math-7b --checkpoint ckpt/broker.json --dry-run\n"
        "  broker recover math-7b --checkpoint ckpt/broker.json --yes\n"
        "  broker recover math-7b --checkpoint out/recover_info --in-flight requeue --yes\n"
        "  broker recover math-7b --version 268 --yes",
    )


def run(namespace: Namespace, output: Output) -> int:
    """Asks, then recovers. A trainer that still runs is fenced; workers go on by themselves."""
    with options.connected(namespace) as operator:
        source = _found(namespace, operator, output)
        if not (namespace.dry_run or namespace.yes):
            effect = f"This changes run {namespace.run} and fences its trainer. --dry-run shows what would happen."
            if not confirmed(output, effect, word=namespace.run, word_is="the run's name"):
                output.note("nothing was changed")
                return EXIT_FINDING
        with output.progress("tasks looked at") as progress:
            report = operator.recover(
                namespace.run,
                source,
                version=namespace.version,
                in_flight=namespace.in_flight,
                allow_loss=namespace.allow_loss,
                dry_run=namespace.dry_run,
                progress=progress,
            )
    if output.as_json:
        output.json({**output.plain(report), "dry_run": namespace.dry_run})
    else:
        _tell(report, output, dry_run=namespace.dry_run)
    return 0


def _found(namespace: Namespace, operator: Operator, output: Output) -> Checkpoint | Path | None:
    """Finds the source of the recovery. Says which file it is, and what another trainer's file does not say."""
    if namespace.checkpoint is None:
        return None
    from broker.recovery.foreign import ForeignCheckpoint

    path = Path(namespace.checkpoint)
    found = operator.source(namespace.run, path)
    if isinstance(found, ForeignCheckpoint):
        output.note(f"{path} is {found.kind}: version {found.version}.")
        output.note(f"Such a file cannot tell {found.cannot_tell}; tasks are judged by the step that trained them.")
        return path
    by = "an operator: its trainer saved no weights beside it" if found.by_operator else "the run's trainer"
    output.note(f"{found.path}: version {found.version}, epoch {found.epoch}, written by {by}.")
    return found


def _tell(report: RecoveryReport, output: Output, *, dry_run: bool) -> None:
    would = "would go" if dry_run else "went"
    output.line(f"run {report.run} {would} from version {report.version_from} to version {report.version_to}")
    if report.source:
        output.line(f"by {report.source}")
    if report.epoch:
        output.line(f"new epoch: {report.epoch}")
    rows = [(name, str(before), str(after)) for name, (before, after) in _counters(report).items()]
    output.table(Table(("", "before", "after"), rows, numeric=frozenset({1, 2})))
    output.line(f"tasks that start over: {sum(report.requeued.values())}")
    for cause, tasks in report.requeued.items():
        output.line(f"  {tasks} {_CAUSES[cause]}")
    output.line(f"ready to be trained again: {report.ready_again}")
    output.line(f"results: {report.results_kept} kept, {report.results_dropped} dropped")
    output.line(f"attempts in flight: {report.attempts_kept} kept, {report.attempts_revoked} taken back")
    if report.consumed_by_lost_steps:
        output.line(f"the lost steps had trained on {count(report.consumed_by_lost_steps, 'task')}")
    if report.finished:
        output.line(f"finished according to the checkpoint, forgotten by the server: {report.finished}")
    if report.dropped:
        output.line(f"dropped, unknown to the checkpoint (the data loader brings them again): {report.dropped}")
    if report.restored:
        output.line(f"put back from the full checkpoint: {report.restored}")
    if report.missing:
        output.line(
            f"unknown to the server, to be enqueued again by the trainer: {len(report.missing)} (--json names them)"
        )
    if report.cursor is None:
        output.line(
            "no cursor is stored: the data loader's place has to come from elsewhere, as from its own checkpoint"
        )
    else:
        output.line(f"the data loader goes on from cursor {report.cursor!r}")


def _counters(report: RecoveryReport) -> dict[str, tuple[int, int]]:
    return {"accepted": report.accepted, "running": report.running, "capacity": report.capacity}
