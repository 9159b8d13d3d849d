"""`broker verify RUN`: checks a run's event log against the guarantees, and counters and tasks against the log."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from typing import TYPE_CHECKING

from broker.cli import options
from broker.cli.failure import EXIT_FINDING, EXIT_OK, EXIT_UNUSABLE, CommandFailure
from broker.cli.output import Output
from broker.cli.plain import to_plain
from broker.errors.words import count, duration, listing
from broker.inspection.transitions import clock

if TYPE_CHECKING:
    from broker.inspection.judge import Breach
    from broker.inspection.verification import Verification


def configure(parser: ArgumentParser) -> None:
    """Add the command's arguments."""
    options.add_run(parser)
    parser.add_argument(
        "--same-config",
        action="store_true",
        help="the config of this run was never changed: judge by it, too, what came before the trainer's last opening",
    )
    options.add_url(parser)
    options.add_json(parser)
    options.add_examples(
        parser,
        "  broker verify math-7b && echo fine\n"
        "  broker verify math-7b --json | jq '.breaches[]'\n\n"
        "It replays every transition that the event log has kept, and checks that\n"
        "  G1  each task is in one state at a time, and batches hold rollouts only, each once\n"
        "  G2  each slot accepts one result at most\n"
        "  G3  a slot is held by one attempt at a time, and only its result is accepted\n"
        "  G4  no task is started beyond capacity\n"
        "  G5  no batch holds a rollout that is staler than staleness_limit\n"
        "  G6  a recovery puts back what it undid, and nothing of an undone policy is trained on\n"
        "Then it compares the counters, and each task that the log names, with the server. The run may\n"
        "be busy. It changes nothing.\n\n"
        "What it could not see it says: above all what was trimmed. A trainer keeps more of the log with\n"
        "RunConfig(events_maxlen=1_000_000, ...) and update=True: so many calls, of which each\n"
        "has one or more transitions of about 50 bytes.\n\n"
        "exit codes: 0 nothing is broken, 1 something is, 2 nothing could be judged.",
    )


def run(namespace: Namespace, output: Output) -> int:
    """Replay the log; exit 1 if something is broken."""
    with options.connected(namespace) as operator, output.progress("transitions read") as progress:
        stats = operator.stats(namespace.run)
        if stats.admission:
            raise CommandFailure(
                f"run {namespace.run} is an admission run: it holds no tasks, and its events tell of none.\n"
                "`broker status` shows its counters."
            )
        if stats.config.events_maxlen == 0:
            raise CommandFailure(
                f"run {namespace.run} keeps no events: its events_maxlen is 0, and there is nothing to replay.\n"
                "`broker audit --deep` compares its counters and tasks with each other. A trainer switches events on\n"
                "with RunConfig(events_maxlen=10_000, ...) and update=True."
            )
        found = operator.verify(namespace.run, keeps_config=namespace.same_config, progress=progress)
    if output.as_json:
        output.json({"ok": found.ok, **to_plain(found)})
    else:
        _tell(found, output)
    if not found.ok:
        return EXIT_FINDING
    return EXIT_OK if found.transitions else EXIT_UNUSABLE


def _tell(found: Verification, output: Output) -> None:
    totals = found.tally
    span = f", {duration((found.to_ms - found.from_ms) / 1000)}" if found.transitions else ""
    whole = "the whole log" if found.is_whole else "what is kept of the log"
    output.line(f"run {found.run}: {count(found.transitions, 'transition')}{span}, {whole}")
    output.line(
        f"  {count(totals.enqueued, 'task')} enqueued, {count(totals.started, 'start')}, "
        f"{count(totals.accepted, 'result')} accepted, {totals.late.total():,} refused, "
        f"{count(totals.consumed, 'task')} trained on, {count(totals.recoveries, 'recovery', 'recoveries')}"
    )
    output.line(f"  {count(found.tasks_compared, 'task')} compared with the server")
    output.line()
    _list(output, "Broken:", found.breaches)
    _list(output, "In doubt:", found.doubts)
    more = sum(found.broken.values()) - len(found.breaches)
    if more:
        output.line(f"  and {more:,} more like these")
    if found.unseen:
        output.line("What it could not see:")
        for sentence in found.unseen:
            output.line(f"  - {sentence}")
        output.line()
    output.line(_conclusion(found))


def _list(output: Output, title: str, breaches: list[Breach]) -> None:
    if not breaches:
        return
    output.line(title)
    from broker.inspection.events import place

    for breach in breaches:
        at = f"  ({clock(place(breach.event)[0])}, event {breach.event})" if breach.event else ""
        output.line(f"  {breach.guarantee:<8} {breach.text}{at}")
    output.line()


def _conclusion(found: Verification) -> str:
    if not found.ok:
        names = listing(sorted({breach.guarantee for breach in found.breaches}))
        return f"broken: {names}; please report it with what `broker tail RUN --from start --no-follow --json` prints"
    if not found.transitions:
        return "nothing could be judged"
    return "nothing is broken" + (", as far as this can be seen" if found.unseen else "")
