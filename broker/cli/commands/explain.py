"""`broker explain RUN`: says whether work goes on, why workers get tasks or not, and what would change that."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from typing import TYPE_CHECKING

from broker.cli import options
from broker.cli.output import Output, Table
from broker.cli.plain import to_plain
from broker.errors.words import count, duration
from broker.inspection.capacity import formula
from broker.inspection.reasons import batch_progress, next_claim, quarantine_told, untrained
from broker.inspection.situation import situation
from broker.inspection.times import compared, lost_told, quantiles_told
from broker.protocol.ids import worker_of

if TYPE_CHECKING:
    from broker.inspection.explanation import Explanation

_DUE = {
    "delayed": "a task's backoff ends",
    "retries": "a slot's backoff ends",
    "deadlines": "an attempt reaches its time-out",
    "sessions": "a lease ends, unless its worker renews it",
}


def configure(parser: ArgumentParser) -> None:
    """Add the command's arguments."""
    options.add_run(parser)
    options.add_url(parser)
    options.add_json(parser)
    options.add_examples(parser, "  broker explain math-7b\n  broker explain math-7b --json | jq -r .reason")


def run(namespace: Namespace, output: Output) -> int:
    """Says which term of the capacity formula binds, who holds the slots since when, and what would change that."""
    with options.connected(namespace) as operator:
        explanation = operator.explain(namespace.run)
    if output.as_json:
        work, answer = situation(explanation), next_claim(explanation)
        words = {"reason": answer.reason, "sentence": answer.sentence, "remedies": answer.remedies}
        words["untrained"] = untrained(explanation.stats)
        output.json(
            {"work": to_plain(work), **words, "batch": batch_progress(explanation.stats), **to_plain(explanation)}
        )
    else:
        _tell(explanation, output)
    return 0


def _tell(explanation: Explanation, output: Output) -> None:
    stats, answer = explanation.stats, next_claim(explanation)
    output.line(f"run {stats.run}: version {stats.version}, next step {stats.step_next}, epoch {stats.epoch}")
    if stats.admission:
        output.line("It is an admission run: AReaL's processes start rollouts on their own, and are counted together.")
    output.line()
    output.line("Is work going on?")
    output.line(f"  {situation(explanation).sentence}")
    output.line()
    output.line(
        "May a process start a rollout now?"
        if stats.admission
        else "Would a worker with the newest weights get a task now?"
    )
    output.line(f"  {answer.sentence}" + ("" if answer.reason == "open" else f"  [{answer.reason}]"))
    if answer.remedies:
        output.line("  What would change it:")
        for remedy in answer.remedies:
            output.line(f"  - {remedy}")
    output.line()
    output.line(f"How many {'rollouts' if stats.admission else 'tasks'} may be started:")
    for line in formula(stats):
        output.line(f"  {line}")
    output.line()
    if stats.admission:
        processes, running = (
            count(stats.sessions - stats.lapsed, "process", "processes"),
            count(stats.running, "rollout"),
        )
        output.line(f"Who is counted: {processes} connected, {running} running.")
        output.line(batch_progress(stats))
        return
    output.line("What the trainer waits for:")
    output.line(f"  {batch_progress(stats)}")
    for line in untrained(stats):
        output.line(f"  {line}")
    if lost := lost_told(stats.lost_s, stats.mean_s):
        output.line(f"  {lost}")
    if explanation.oldest_ready:
        output.line(f"  The oldest task that is ready: {explanation.oldest_ready}.")
    if explanation.oldest_pending:
        output.line(f"  The next task to be started: {explanation.oldest_pending}.")
    output.line()
    _tell_holders(explanation, output)
    _tell_due(explanation, output)


def _tell_holders(explanation: Explanation, output: Output) -> None:
    stats, holding = explanation.stats, explanation.holding
    workers, held = count(stats.sessions - stats.lapsed, "worker"), holding.held + holding.lost
    least = "at least " if holding.counted < stats.sessions else ""
    output.line(f"Who holds what: {workers} connected, {least}{count(held, 'slot')} held.")
    if stats.lapsed:
        silent = count(stats.lapsed, "more worker has", "more workers have")
        output.line(f"{silent} been silent for longer than a lease; the next claims take back what they hold.")
    if stats.quarantined:
        output.line(f"{quarantine_told(stats)} broker readmit {stats.run} ends that.")
    if not explanation.held:
        return
    if stats.generation_s:
        output.line(f"Accepted attempts took {quantiles_told(stats.generation_s)}.")
    rows = [
        (
            row.attempt_id,
            worker_of(row.session),
            f"{row.version}",
            _held_for(explanation, row.at_ms),
            duration(row.timeout_ms / 1000) if row.timeout_ms else "none",
            f"{row.tries} of {row.max_attempts}",
            _lease(row.deadline_ms, explanation.now_ms),
        )
        for row in explanation.held
    ]
    output.table(
        Table(
            ("attempt", "worker", "version", "held for", "time-out", "tries used", "lease"),
            rows,
            numeric=frozenset({2, 3, 4}),
        )
    )
    if len(rows) < held:
        output.line(f"and {least}{held - len(rows):,} more, which are not listed: of tasks that started later")


def _held_for(explanation: Explanation, at_ms: int) -> str:
    stats, seconds = explanation.stats, (explanation.now_ms - at_ms) / 1000
    slow = compared(seconds, stats.generation_s.get("p50"), stats.timed)
    return f"{duration(seconds)}, {slow}" if slow else duration(seconds)


def _tell_due(explanation: Explanation, output: Output) -> None:
    due = sorted((at_ms, name) for name, at_ms in explanation.due.items() if at_ms)
    if not due:
        return
    output.line()
    output.line("What is due next:")
    for at_ms, name in due:
        left_ms = at_ms - explanation.now_ms
        when = f"in {duration(left_ms / 1000)}" if left_ms > 0 else "now, with the next claims"
        output.line(f"  {when}: {_DUE.get(name, name)}")


def _lease(deadline_ms: int, now_ms: int) -> str:
    left_s = (deadline_ms - now_ms) / 1000
    return f"{duration(left_s)} left" if left_s > 0 else f"passed {duration(-left_s)} ago"
