"""Whether work goes on in a run, or why it stands still: the first sentence of `broker explain`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from broker.errors.words import count, duration, listing
from broker.inspection.reasons import awaited_told, batch_progress, next_claim, quarantine_told, trainer_silent
from broker.inspection.times import compared, straggles
from broker.protocol.ids import attempt_id, worker_of

if TYPE_CHECKING:
    from broker.inspection.explanation import Explanation
    from broker.inspection.stats import Stats


@dataclass(frozen=True, slots=True)
class Situation:
    """Whether work goes on.

    Attributes:
        word: `working`; or why the run stands still: `finished`, `no_worker`, `no_task`, `halted`, `paused`,
            `draining`, `recovering`, `retries`, `weights_stale`, `quarantined`, `trainer`, or `idle` if no reason is
            known.
        sentence: the same for people.
    """

    word: str
    sentence: str


def situation(explanation: Explanation) -> Situation:
    """The situation, by the connected workers, the slots that they hold and the tasks that are left."""
    stats = explanation.stats
    if stats.admission:
        return _of_processes(stats)
    connected, holding = stats.sessions - stats.lapsed, explanation.holding
    if stats.finished and not holding.held:
        return Situation("finished", f"No:{_nothing_more(stats)}{_left_in_finished(stats)}")
    if not connected:
        return Situation("no_worker", f"No: no worker is connected.{_fallen_silent(explanation)}{_nothing_left(stats)}")
    if holding.held:
        more = _straggler(explanation) + _nothing_more(stats) + _with_stale_weights(explanation) + trainer_silent(stats)
        return Situation("working", _who_works(explanation) + more)
    idle = (
        f"{count(connected, 'worker is', 'workers are')} connected and {'holds' if connected == 1 else 'hold'} nothing"
    )
    if holding.counted < stats.sessions:
        idle = f"{idle}, as far as {holding.counted:,} of {stats.sessions:,} were looked at"
    if holding.lost:
        idle = f"{idle}.{_fallen_silent(explanation)}".removesuffix(".")
    if nothing := _nothing_left(stats):
        return Situation("no_task", f"No: {idle}.{nothing}")
    if stats.halted or stats.recovering is not None or stats.paused == "paused":
        return Situation(next_claim(explanation).reason, f"No: {idle}.{_nothing_more(stats)}")
    return _idle(explanation, idle)


def _who_works(explanation: Explanation) -> str:
    stats, holding = explanation.stats, explanation.holding
    least = "at least " if holding.counted < stats.sessions else ""
    workers = f"{least}{holding.busy:,} of {count(stats.sessions - stats.lapsed, 'connected worker')}"
    return f"Yes: {workers} {'holds' if holding.busy == 1 else 'hold'} {least}{count(holding.held, 'slot')}."


def _straggler(explanation: Explanation) -> str:
    """A sentence on the attempt that has been held for the longest time, if it is a straggler; else empty."""
    stats = explanation.stats
    held = [row for row in explanation.held if row.deadline_ms > explanation.now_ms]
    if not held:
        return ""
    first = min(held, key=lambda row: row.at_ms)
    held_s = (explanation.now_ms - first.at_ms) / 1000
    if not straggles(held_s, stats.generation_s, stats.timed):
        return ""
    slow = compared(held_s, stats.generation_s.get("p50"), stats.timed)
    task, worker = attempt_id(first.attempt_id).task, worker_of(first.session)
    return f" A straggler: worker {worker} has held task {task} for {duration(held_s)}, {slow}."


def _idle(explanation: Explanation, idle: str) -> Situation:
    """The situation when workers are connected and hold nothing, and the run is not paused or recovering."""
    stats = explanation.stats
    found = next_claim(explanation)
    if found.reason == "open" and stats.quarantined >= stats.sessions - stats.lapsed:
        return Situation("quarantined", f"No: {idle}. {quarantine_told(stats)}")
    if found.reason == "open":
        told = _told_stale(explanation)
        if told and told == len(_listed(explanation)):
            return Situation("weights_stale", f"No: {idle}.{_with_stale_weights(explanation)}")
        though = (
            "" if explanation.holding.lost else ", though tasks may be handed out"
        )  # `idle` says what is taken back
        return Situation("idle", f"No: {idle}{though}.{_with_stale_weights(explanation)}")
    if found.reason == "draining":
        return Situation("draining", f"No: {idle}.{_nothing_more(stats)}")
    if stats.ready + stats.batched >= stats.config.batch_size or stats.step_next > stats.version:
        return Situation("trainer", _trainer(stats, idle))
    if explanation.holding.lost:  # said in `idle` already: the next claims take it back
        return Situation("idle", f"No: {idle}.{_with_stale_weights(explanation)}")
    if stats.running or stats.delayed:
        return Situation("retries", f"No: {idle}. What is left waits for a retry{_next_retry(explanation)}.")
    return Situation("trainer", _trainer(stats, idle))


def _trainer(stats: Stats, idle: str) -> str:
    """The sentence where the workers wait for the trainer."""
    return f"No: {idle}. Workers wait for the trainer. {batch_progress(stats)}{trainer_silent(stats)}"


def _of_processes(stats: Stats) -> Situation:
    """The situation of an admission run: its processes have the work, the broker counts it."""
    connected = stats.sessions - stats.lapsed
    if not connected:
        return Situation("no_worker", "No: no process is connected.")
    processes = count(connected, "process is", "processes are")
    if not stats.running:
        return Situation("idle", f"No: {processes} connected, and no rollout is running.{_nothing_more(stats)}")
    running = count(stats.running, "rollout is", "rollouts are")
    return Situation("working", f"Yes: {running} running; {processes} connected.{_nothing_more(stats)}")


def _fallen_silent(explanation: Explanation) -> str:
    lapsed, lost = explanation.stats.lapsed, explanation.holding.lost
    if not lapsed:
        return ""
    silent = f" {count(lapsed, 'worker has', 'workers have')} been silent for longer than a lease"
    return f"{silent}; the next claims take back {count(lost, 'slot')}." if lost else f"{silent}."


def _nothing_left(stats: Stats) -> str:
    """A sentence if no task is left for workers; else empty."""
    if stats.pending or stats.delayed or stats.running:
        return ""
    if stats.awaited:
        return f" No task is left to work on.{awaited_told(stats)}"
    if stats.ready or stats.batched or stats.step_next > stats.version:
        rest = " No task is left to work on; the trainer has the rest."
        return f"{rest} {batch_progress(stats)}{trainer_silent(stats)}"
    ended = {"consumed": stats.consumed, "dead": stats.dead, "rejected": stats.rejected}
    words = listing(f"{number:,} {name}" for name, number in ended.items() if number)
    return f" No task is left: {words}." if words else " No task has been enqueued."


def _nothing_more(stats: Stats) -> str:
    """A sentence if the run hands out no more work as a whole; else empty."""
    if stats.finished:
        return " The run is finished: nothing more is handed out, and no batch is formed."
    if stats.halted:
        return " The run is halted: nothing more is handed out."
    if stats.recovering is not None:
        return f" A recovery to version {stats.recovering} has begun; until it is committed nothing more is handed out."
    if stats.paused == "paused":
        return " The run is paused: nothing more is handed out."
    if stats.paused == "draining":
        return " The run is draining: only what is started is handed out."
    return ""


def _left_in_finished(stats: Stats) -> str:
    """A sentence on what a finished run leaves; empty if nothing is left."""
    left = {"waiting": stats.pending + stats.delayed, "running": stats.running, "ready": stats.ready + stats.batched}
    words = listing(f"{number:,} {name}" for name, number in left.items() if number)
    return f" What is left stays as it is: {words}." if words else ""


def _listed(explanation: Explanation) -> list[str | None]:
    """Why the last claim of each listed worker whose lease runs got less than it asked for."""
    return [row.reason for row in explanation.sessions if row.deadline_ms > explanation.now_ms]


def _told_stale(explanation: Explanation) -> int:
    return _listed(explanation).count("weights_stale")


def _with_stale_weights(explanation: Explanation) -> str:
    """A sentence if the last claims of connected workers were refused for old weights; else empty."""
    told, looked_at = _told_stale(explanation), len(_listed(explanation))
    if not told:
        return ""
    return (
        f" The weights of {told} of {count(looked_at, 'worker')} looked at were too old at the last claim:"
        f" the run is at version {explanation.stats.version}."
        " Workers get work again once they have loaded newer weights."
    )


def _next_retry(explanation: Explanation) -> str:
    due = [at_ms for name in ("delayed", "retries") if (at_ms := explanation.due.get(name, 0))]
    if not due:
        return ""
    left_ms = min(due) - explanation.now_ms
    return f", the next in {duration(left_ms / 1000)}" if left_ms > 0 else ", the next with the next claim"
