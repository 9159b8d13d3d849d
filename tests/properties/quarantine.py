"""Quarantine in the reference model: a session whose attempts all fail while others are accepted gets none for a while."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .state import Run

#: The first quarantine lasts this long at least, ms; each further one twice as long, up to so many times the first.
LEAST_MS, MOST_TIMES = 1_000, 16


@dataclass(slots=True)
class Ailing:
    """The failures of a session since its last result or verdict."""

    #: How many results were accepted before the first of them.
    results: int
    #: The different tasks that failed; no more than it takes are kept.
    tasks: list[str] = field(default_factory=list[str])
    #: How often it was quarantined, and until when.
    times: int = 0
    until_ms: int = 0


def failed(run: Run, session: str, task: str) -> None:
    """An attempt of a session that is alive has failed."""
    after = run.config.quarantine_after
    if after == 0 or run.breaker.halted:
        return
    ailing = run.ailing.setdefault(session, Ailing(run.totals.get("results", 0)))
    if run.clock_ms < ailing.until_ms:
        return
    if task not in ailing.tasks and len(ailing.tasks) < after:
        ailing.tasks.append(task)
    others_succeed = run.totals.get("results", 0) > ailing.results
    if ailing.times > 0 or (len(ailing.tasks) >= after and others_succeed):
        first = max(LEAST_MS, run.config.retry_backoff_max_ms)
        ailing.until_ms = run.clock_ms + min(first * 2**ailing.times, first * MOST_TIMES)
        ailing.times += 1
        run.breaker.quarantined = True
        run.count("quarantines")


def is_over_all(run: Run) -> bool:
    """Whether every session is quarantined."""
    return all(s in run.ailing and run.clock_ms < run.ailing[s].until_ms for s in run.sessions)


def most(run: Run, session: str, n: int) -> int:
    """How many of n slots a claim may hand out: none in quarantine, after it one at a time until a result is accepted."""
    ailing = run.ailing.get(session)
    if ailing is None or ailing.times == 0:
        return n
    return 0 if run.clock_ms < ailing.until_ms else min(n, max(0, 1 - len(run.held(session))))


def readmit(run: Run, names: tuple[str, ...]) -> list[str]:
    """Ends the quarantine of these sessions, or of all sessions of these workers; no names: of all."""
    there = [
        session
        for session, ailing in sorted(run.ailing.items(), key=lambda each: (each[1].until_ms, each[0]))
        if ailing.times > 0 and (not names or session in names or session.rpartition("~")[0] in names)
    ]
    for session in there:
        del run.ailing[session]
    return there
