"""A view: the whole visible state of a run as plain data. This module makes it of the model, a driver of the server."""

from __future__ import annotations

from collections import Counter
from typing import Any, cast

from . import breaker
from .calls import task_options
from .state import Run, Task

View = dict[str, Any]


def view_of(run: Run | None) -> View:
    """The model's view; empty where there is no run."""
    if run is None:
        return {}
    waits = run.config.on_stale == "wait"
    return {
        "run": {
            "version": run.version,
            "step_next": run.step_next,
            "epoch": run.epoch,
            "call": run.call_number,
            # While a recovery is under way the counters wait for its end.
            "accepted": None if run.recovering is not None else run.accepted_count(),
            "running": len(run.running()),
            "paused": run.paused,
            "cursor": run.cursor,
            "supply": run.supply,
            "finished": run.is_over,
            "given": list(run.given),
            "held": None if run.config.max_concurrent_samples is None else run.held_count(),
            "ages": dict(Counter(str(task.oldest) for task in (*run.running(), *run.ready()))) if waits else None,
            "wait": [wait.step, wait.since_ms, wait.version, wait.first] if waits and (wait := run.wait) else None,
            "open_size": None if run.recovering is not None else len(run.unsealed_batch().tasks),
            "recovering": run.recovering,
            "floor": run.floor,
            "checkpoints": sorted(run.committed),
            "operator_checkpoints": sorted(run.by_operators),
        },
        "config": {
            "batch": run.config.batch,
            "staleness": run.config.max_staleness,
            "limit": run.config.limit,
            "concurrent": run.config.concurrent,
            "samples": run.config.max_concurrent_samples,
            "on_stale": run.config.on_stale,
        },
        "policies": {version: epoch for version, epoch in run.policies.items() if version <= run.version},
        "tasks": {task.id: task_view(task) for task in run.tasks.values()},
        "pending": [task.id for task in run.pending()],
        "open": [task.id for task in run.open()],
        "running": [task.id for task in run.running()],
        "ready": [task.id for task in run.ready()],
        "delayed": {member: due for due, member in run.delayed()},
        "retries": {member: due for due, member in run.retries()},
        "deadlines": {attempt: at for at, attempt in run.deadlines()},
        "sessions": {s.id: s.deadline_ms for s in run.sessions.values()},
        "calls": {s.id: [s.number, s.lease_ms] for s in run.sessions.values()},
        "held": {
            s.id: held
            for s in run.sessions.values()
            if (held := {attempt: version for version, attempt, _, _ in run.held(s.id)})
        },
        "batches": {b.step: list(b.tasks) for b in run.batches.values() if b.tasks},
        "sealed": {b.step: [b.size, b.sealed_ms] for b in run.batches.values() if b.sealed},
        "dead": sorted(t.id for t in run.tasks.values() if t.state == "dead"),
        "rejected": sorted(t.id for t in run.tasks.values() if t.state == "rejected"),
        "totals": {name: count for name, count in run.totals.items() if count},
        "awaited": sorted(run.awaited),
        "streak": breaker.streak(run),
        "halted": run.breaker.halted,
        "halt": run.breaker.halt,
        "times": dict(run.times),
        "lengths": {name: number for name, number in run.lengths.items() if number},
        "ailing": {name: [each.results, each.times, each.until_ms, *each.tasks] for name, each in run.ailing.items()},
        "quarantine": {name: each.until_ms for name, each in run.ailing.items() if each.times},
        "results": {attempt: run.results[attempt] for attempt in wanted_results(run)},
    }


def task_view(task: Task) -> View:
    """One task. Of an ended task's slots, the view has only the fields on which answers depend."""
    over = task.state in ("dead", "rejected")
    slots: list[Any] = []
    for index, slot in enumerate(task.slots):
        letter = "O" if over and slot.letter in "OWH" else slot.letter
        each: list[Any] = [letter, slot.claims, slot.tries]
        if letter in "HD":
            each += [task.attempt_id(index), list(slot.policy), slot.session, slot.newest]
        if slot.faults:
            each.append([slot.faults, slot.barred_ms, *slot.faulty])
        slots.append(each)
    found: View = {
        "state": task.state,
        "slots": slots,
        "payload": task.payload,
        **task_options(task),
        "order": task.order,
        "born": task.born,
        "errors": task.errors,
        "requeues": task.requeues,
        "step": task.step,
        "error": list(task.last_error) if task.last_error else None,
    }
    if over:
        found["reason"] = task.reason
    else:
        found |= {
            "first": task.first,
            "oldest": task.oldest,
            "newest": task.newest,
            "stale_requeues": task.stale_requeues,
        }
    return found


def wanted_results(run: Run) -> list[str]:
    """The attempts whose bytes must be there, without a time to live: until the advance after that of their batch.

    Bytes of undone steps may be gone, until the sweep of the recovery judges their tasks.
    """
    return [attempt for task in run.tasks.values() if not _may_be_freed(run, task) for attempt in _done(task)]


def unwanted_results(run: Run) -> list[str]:
    """The accepted attempts of batches whose bytes may be freed."""
    return [attempt for task in run.tasks.values() if _may_be_freed(run, task) for attempt in _done(task)]


def _may_be_freed(run: Run, task: Task) -> bool:
    if task.state == "batched" and task.step is not None:
        return run.batches[task.step].old or (run.recovering is not None and run.unsealed(task))
    return False


def _done(task: Task) -> list[str]:
    if task.state not in ("running", "ready", "batched"):
        return []
    return [task.attempt_id(index) for index, slot in enumerate(task.slots) if slot.letter == "D"]


def claim_results(run: Run, view: View, aside: View) -> None:
    """Moves the bytes that must be there, and have no time to live, from `aside` into the view."""
    for attempt in wanted_results(run):
        if aside["stray"].get(attempt, (b"", 0))[1] == -1:
            view["results"][attempt] = aside["stray"].pop(attempt)[0]


def differences(expected: Any, found: Any, path: str = "") -> list[str]:
    """A line for each place in which two views or answers differ."""
    if isinstance(expected, dict) and isinstance(found, dict):
        return _different_fields(cast("dict[Any, Any]", expected), cast("dict[Any, Any]", found), path)
    return [] if expected == found else [f"{path}: model {expected!r}, server {found!r}"]


def _different_fields(expected: dict[Any, Any], found: dict[Any, Any], path: str) -> list[str]:
    lines: list[str] = []
    for key in sorted({*expected, *found}, key=str):
        where = f"{path}.{key}" if path else str(key)
        if key not in expected:
            lines.append(f"{where}: model has none, server {found[key]!r}")
        elif key not in found:
            lines.append(f"{where}: model {expected[key]!r}, server has none")
        else:
            lines += differences(expected[key], found[key], where)
    return lines
