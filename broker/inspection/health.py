"""Whether a worker or the trainer of a run is alive, by its last sign of life."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from broker.errors.words import count, duration
from broker.inspection.reasons import TRAINER_SILENT_S

if TYPE_CHECKING:
    from broker.inspection.explanation import Explanation
    from broker.inspection.stats import Stats


@dataclass(frozen=True, slots=True)
class Health:
    """The answer of a health check.

    Args:
        ok: whether it is alive.
        silent_s: how long ago its last sign of life was, in seconds; None: none is known.
        sentence: the same for people.
    """

    ok: bool
    silent_s: float | None
    sentence: str


def worker_health(explanation: Explanation, worker: str, max_silence_s: float | None = None) -> Health:
    """The health of a worker, by the newest sign of life of its sessions with the run.

    Args:
        explanation: its `sessions` are the worker's.
        worker: its name.
        max_silence_s: how long it may be silent, in seconds; None: for its lease.
    """
    run, rows = explanation.stats.run, explanation.sessions
    if not rows:
        return Health(False, None, f"worker {worker} is not connected to run {run}: it has not joined, or it has left")
    newest = max(rows, key=lambda row: row.deadline_ms - row.lease_ms)
    silent_s = newest.silent_s(explanation.now_ms)
    limit_s = newest.lease_ms / 1000 if max_silence_s is None else max_silence_s
    held = count(sum(row.held for row in rows), "slot")
    told = f"worker {worker} gave its last sign of life {duration(silent_s)} ago, and holds {held}"
    return Health(silent_s <= limit_s, silent_s, _judged(told, silent_s, limit_s))


def trainer_health(stats: Stats, max_silence_s: float | None = None) -> Health:
    """The health of a run's trainer. A finished run needs none.

    Args:
        stats: the numbers of the run.
        max_silence_s: how long it may be silent, in seconds; None: for a minute.
    """
    silent_s, limit_s = stats.trainer_silent_s, TRAINER_SILENT_S if max_silence_s is None else max_silence_s
    if stats.finished:
        return Health(True, silent_s, f"run {stats.run} is finished, and needs no trainer")
    if silent_s is None:
        return Health(False, None, f"no sign of life of a trainer of run {stats.run} is known")
    told = f"the trainer of run {stats.run} gave its last sign of life {duration(silent_s)} ago"
    return Health(silent_s <= limit_s, silent_s, _judged(told, silent_s, limit_s))


def _judged(told: str, silent_s: float, limit_s: float) -> str:
    return told if silent_s <= limit_s else f"{told}; {duration(limit_s)} are allowed"
