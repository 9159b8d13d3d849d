"""The breaker of the reference model: a streak of failures without an accepted result halts the run."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from . import quarantine

if TYPE_CHECKING:
    from .state import Run, Task

#: task -> slot -> the tries that its failures took.
Taken = dict[str, dict[int, int]]


@dataclass(slots=True)
class Breaker:
    """The streak since the last accepted result, and the halt."""

    events: int = 0
    taken: Taken = field(default_factory=lambda: {})
    #: How many results were accepted before it.
    results: int = 0
    #: The session whose expiry was the last event; it may expire in pieces.
    session: str = ""
    #: Whether anything has failed in the present call.
    failed: bool = False
    #: Whether a session was quarantined in the present call.
    quarantined: bool = False
    #: After how many events the run was halted; 0: it is not.
    halted: int = 0
    #: The streak that halted it.
    halt: Taken = field(default_factory=lambda: {})


def streak(run: Run) -> Taken:
    """What failed since the last accepted result, with the tries taken."""
    return run.breaker.taken if run.breaker.results == run.totals.get("results", 0) else {}


def begin(run: Run, tasks: set[str], session: str = "") -> bool:
    """A failure of these tasks: whether what it takes is noted. It is an event where none of them failed before.

    Args:
        session: the one that expired, with all that it held; empty: an attempt failed.
    """
    breaker = run.breaker
    if breaker.halted or run.config.halt_after_failures == 0:
        return False
    if streak(run) is not breaker.taken:
        breaker.events, breaker.taken, breaker.session = 0, {}, ""
    if session and session == breaker.session:
        return True
    if tasks & breaker.taken.keys():
        return False
    breaker.events += 1
    breaker.session, breaker.results = session, run.totals.get("results", 0)
    return True


def take(run: Run, task: Task, index: int, tries: int, *, counts: bool) -> None:
    """A failure takes so many tries of a slot."""
    breaker = run.breaker
    if breaker.halted or run.config.halt_after_failures == 0:
        return
    breaker.failed = True
    if counts or task.id in streak(run):
        taken = breaker.taken.setdefault(task.id, {})
        taken[index] = taken.get(index, 0) + tries


def look(run: Run, *, at_take: bool = False) -> None:
    """Halts the run where the streak is long enough or nothing is left to try, and gives back what it took.

    Args:
        at_take: the trainer asks for a batch; else only a failure can halt the run.
    """
    breaker = run.breaker
    has_failed, breaker.failed = breaker.failed, False
    was_quarantined, breaker.quarantined = breaker.quarantined, False
    failed = streak(run)
    if breaker.halted or run.config.halt_after_failures == 0 or not (has_failed or at_take) or not failed:
        return
    is_long = breaker.events >= 2 and (breaker.events >= run.config.halt_after_failures or _died_out(run))
    if not is_long and not (was_quarantined and quarantine.is_over_all(run)):
        return
    breaker.halted, breaker.halt = breaker.events, failed
    breaker.events, breaker.taken, breaker.session = 0, {}, ""
    run.count("halts")
    for name, slots in breaker.halt.items():
        task = run.tasks.get(name)
        if task is not None and task.state in ("pending", "delayed", "running", "dead"):
            _give_back(run, task, slots)


def _died_out(run: Run) -> bool:
    """Whether at least two tasks died of the streak, and nothing that could still succeed is left or will come."""
    tasks = run.tasks.values()
    if run.supply == "more" or run.awaited or any(task.state in ("pending", "delayed", "running") for task in tasks):
        return False
    return sum(run.tasks[name].state == "dead" for name in streak(run) if name in run.tasks) >= 2


def _give_back(run: Run, task: Task, slots: dict[int, int]) -> None:
    for index, tries in slots.items():
        if index >= len(task.slots):
            continue
        slot = task.slots[index]
        slot.tries = max(0, slot.tries - tries)
        if slot.letter == "F" and slot.by_error:
            slot.letter, slot.by_error = "O", False
    if task.state != "dead" or task.samples - task.count("F") < task.min_samples:
        return
    for slot in task.slots:
        if slot.letter == "D":
            slot.letter, slot.ended = "O", "revoked"
        if slot.letter == "O":
            slot.due_ms = slot.deadline_ms = 0
    task.state, task.step, task.reason = "pending", None, ""
    task.requeues += 1
    run.count("revived")


def resume(run: Run) -> None:
    """Ends the halt. What failed is due after the longest backoff, so that other tasks go first."""
    breaker = run.breaker
    config = run.config
    wait = min(config.retry_backoff_max_ms, config.retry_backoff_ms * 2**40)
    due = run.clock_ms + wait
    for name, slots in breaker.halt.items():
        task = run.tasks.get(name)
        if task is None or wait == 0:
            continue
        if task.state in ("pending", "delayed"):
            task.state, task.due_ms = "delayed", due
        elif task.state == "running":
            for index in slots:
                if index < len(task.slots) and task.slots[index].letter in "OW":
                    task.slots[index].letter, task.slots[index].due_ms = "W", due
    breaker.halted, breaker.halt = 0, {}
    run.ailing.clear()
