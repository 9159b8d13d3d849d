"""What the page of a run shows at one moment, as JSON types."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from broker.inspection import situation
from broker.inspection.capacity import formula
from broker.inspection.reasons import next_claim
from broker.inspection.timeline import histogram
from broker.inspection.times import compared
from broker.inspection.transitions import sentence
from broker.protocol.ids import worker_of

if TYPE_CHECKING:
    from broker.inspection.explanation import Explanation
    from broker.inspection.stats import Stats
    from broker.inspection.timeline import Step, Timeline

#: How much of each a page gets at a look.
SECONDS: Final = 300
STEPS: Final = 60
WORKERS: Final = 100
STRAGGLERS: Final = 20
TRANSITIONS: Final = 40
ERRORS: Final = 20


def overview_row(stats: Stats) -> dict[str, Any]:
    """A run in the list of runs."""
    return {
        "run": stats.run,
        "state": state_word(stats),
        "admission": stats.admission,
        "version": stats.version,
        "capacity": stats.capacity,
        "workers": stats.sessions - stats.lapsed,
        **stats.by_state(),
    }


def state_word(stats: Stats) -> str:
    """One word for what a run as a whole does."""
    if stats.recovering is not None:
        return "recovering"
    if stats.halted:
        return "halted"
    if stats.finished:
        return "finished"
    return stats.paused or "open"


def snapshot(found: Explanation, timeline: Timeline) -> dict[str, Any]:
    """Everything that moves on the page of a run.

    Args:
        found: a look at the run.
        timeline: its event log up to about the same moment.
    """
    stats, now_ms = found.stats, found.now_ms
    going, claim = situation.situation(found), next_claim(found)
    seconds = timeline.per_second(now_ms, SECONDS)
    return {
        "now_ms": now_ms,
        "run": stats.run,
        "state": state_word(stats),
        "admission": stats.admission,
        "situation": {"word": going.word, "sentence": going.sentence},
        "claim": {"reason": claim.reason, "sentence": claim.sentence, "remedies": list(claim.remedies)},
        "formula": list(formula(stats)),
        "numbers": {
            "version": stats.version,
            "step_next": stats.step_next,
            "capacity": stats.capacity,
            "batch_size": stats.config.batch_size,
            "concurrency": stats.config.concurrency,
            "max_staleness": stats.config.max_staleness,
            "accepted": stats.accepted,
            "workers": stats.sessions - stats.lapsed,
            "silent": stats.lapsed,
            "quarantined": stats.quarantined,
            "held": found.holding.held,
            "busy": found.holding.busy,
            "floor": stats.floor,
            "epoch": stats.epoch,
            "trainer_silent_s": stats.trainer_silent_s,
        },
        "tasks": stats.by_state(),
        "totals": {name: number for name, number in sorted(stats.totals.items()) if number},
        "generation_s": stats.generation_s,
        "lost_s": stats.lost_s,
        "per_second": {
            "first_s": seconds[0].at_s,
            "accepted": [second.accepted for second in seconds],
            "trained": [second.trained for second in seconds],
            "failed": [second.failed for second in seconds],
            "late": [second.late for second in seconds],
        },
        "times": [[round(low, 4), round(high, 4), number] for low, high, number in histogram(timeline.times_s)],
        "steps": [_step(step) for step in list(timeline.steps.values())[-STEPS:]],
        "workers": _workers(found, timeline),
        "stragglers": _stragglers(found, timeline),
        "halt": _halt(found),
        "recoveries": [
            {
                "began_ms": seen.began_ms,
                "ended_ms": seen.ended_ms,
                "to": seen.to,
                "put_back": seen.put_back,
                "attempts_ended": seen.ended,
            }
            for seen in reversed(timeline.recoveries)
        ],
        "ended": dict(timeline.ended),
        "transitions": [
            transition_row(told.id, told.place, told.at_ms, told.kind, told.words)
            for told in list(timeline.transitions)[: -TRANSITIONS - 1 : -1]
        ],
        "has_gap": timeline.has_gap,
        "has_events": stats.config.events_maxlen > 0,
    }


def transition_row(event_id: str, place: int, at_ms: int, kind: str, words: str) -> dict[str, Any]:
    """A transition of the event log, as a sentence."""
    return {"id": event_id, "place": place, "at_ms": at_ms, "kind": kind, "text": sentence(kind, words.split())}


def _step(step: Step) -> dict[str, Any]:
    return {
        "step": step.step,
        "first_ms": step.first_ms,
        "sealed_ms": step.sealed_ms,
        "trained_ms": step.trained_ms,
        "size": step.size,
        "staleness": {str(behind): number for behind, number in sorted(step.staleness.items())},
        "last_task": step.last_task,
        "last_worker": worker_of(step.last_worker),
        "last_took_s": round(step.last_took_s, 3),
        "widest_gap_s": round(step.widest_gap_s, 3),
    }


def _workers(found: Explanation, timeline: Timeline) -> dict[str, Any]:
    """The first workers by the end of their lease; those that fell silent come first."""
    rows: list[dict[str, Any]] = []
    oldest: dict[str, int] = {}
    for held in timeline.held.values():
        oldest[held.session] = min(held.since_ms, oldest.get(held.session, held.since_ms))
    for row in found.sessions[:WORKERS]:
        seen = timeline.workers.get(row.session)
        since_ms = oldest.get(row.session, 0) if row.held else 0
        rows.append(
            {
                "session": row.session,
                "worker": worker_of(row.session),
                "held": row.held,
                "silent": row.deadline_ms <= found.now_ms,
                "lease_left_s": round((row.deadline_ms - found.now_ms) / 1000, 1),
                "oldest_held_s": round((found.now_ms - since_ms) / 1000, 1) if since_ms else None,
                "silent_s": round(row.silent_s(found.now_ms), 1),
                "done": seen.done if seen else 0,
                "failed": seen.failed if seen else 0,
                "reason": row.reason,
                "quarantine_s": found.stats.quarantine.get(row.session),
            }
        )
    return {"rows": rows, "more": max(0, found.stats.sessions - len(rows))}


def _stragglers(found: Explanation, timeline: Timeline) -> list[dict[str, Any]]:
    """The attempts that have been held for the longest time: by the event log, or without one by the server's list."""
    median, timed = found.stats.generation_s.get("p50"), found.stats.timed
    if timeline.held:
        held = [(one.attempt, one.session, one.version, one.since_ms) for one in timeline.held_longest(STRAGGLERS)]
    else:
        slots = sorted(found.held, key=lambda row: row.at_ms)[:STRAGGLERS]
        held = [(row.attempt_id, row.session, row.version, row.at_ms) for row in slots]
    rows: list[dict[str, Any]] = []
    for attempt, session, version, since_ms in held:
        held_s = max(0.0, (found.now_ms - since_ms) / 1000)
        rows.append(
            {
                "attempt": attempt,
                "task": attempt.partition("#")[0],
                "worker": worker_of(session),
                "version": version,
                "held_s": round(held_s, 1),
                "slow": compared(held_s, median, timed),
            }
        )
    return rows


def _halt(found: Explanation) -> dict[str, Any] | None:
    if found.halt is None:
        return None
    return {
        "failures": found.halt.failures,
        "at_ms": found.halt.at_ms,
        "workers": list(found.halt.workers),
        "errors": [
            {"task": row.task, "worker": worker_of(row.session), "at_ms": row.at_ms, "error": row.error}
            for row in found.halt.errors[:ERRORS]
        ],
    }
