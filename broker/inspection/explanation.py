"""Why a run goes on or stands still: its numbers, its workers, and the term of the capacity formula that binds."""

from __future__ import annotations

from dataclasses import dataclass

from broker.connections.base import BaseTransport
from broker.errors import BrokerError
from broker.inspection.capacity import Binding, terms_of
from broker.inspection.stats import Stats, stats_of
from broker.protocol import anyone
from broker.protocol.anyone import Facts, Halt, HeldRow, Holding, SessionRow
from broker.protocol.script_call import Now


@dataclass(frozen=True, slots=True)
class Explanation:
    """The facts by which a run goes on or stands still.

    Args:
        stats: the numbers.
        by_concurrency: C - running.
        by_staleness: (S + version + 1) * B - (accepted + running), None without a bound.
        binding: the term that binds, `samples`, `concurrency` or `staleness` (of several the first of these);
            `none` while capacity is positive.
        now_ms: the run's clock.
        sessions: the first workers by the end of their lease; `stats.sessions` is the number of all.
        held: the first held slots of the oldest running tasks.
        due: the time of the next delayed task, retry, deadline and session's end, by kind, in ms of the run's clock;
            0: none.
        oldest_pending: the task that is started next, or empty.
        oldest_ready: the task that is taken next, or empty.
        holding: the number of workers that hold slots, and of these slots.
        halt: what halted the run, or None.
        by_samples: max_concurrent_samples - held, None without a bound.
    """

    stats: Stats
    by_concurrency: int
    by_staleness: int | None
    binding: Binding
    now_ms: int
    sessions: tuple[SessionRow, ...]
    held: tuple[HeldRow, ...]
    due: dict[str, int]
    oldest_pending: str
    oldest_ready: str
    holding: Holding
    halt: Halt | None = None
    by_samples: int | None = None

    def __str__(self) -> str:
        """The facts in words: does work go on, would a worker get a task, what does the batch lack, what was lost."""
        from broker.inspection.reasons import batch_progress, next_claim
        from broker.inspection.situation import situation
        from broker.inspection.times import lost_told

        claim = next_claim(self)
        lines = [
            f"run {self.stats.run}: version {self.stats.version}, next step {self.stats.step_next}",
            f"Is work going on? {situation(self).sentence}",
            f"Would a worker with the newest weights get a task now? {claim.sentence}",
            *(f"- {remedy}" for remedy in claim.remedies),
            batch_progress(self.stats),
        ]
        if lost := lost_told(self.stats.lost_s, self.stats.mean_s):
            lines.append(lost)
        return "\n".join(lines)


async def explain(io: BaseTransport, run: str, now: Now, limit: int = 50, worker: str = "") -> Explanation:
    """Gathers the facts in one round trip; with the name of a worker, `sessions` are its own."""
    stored, facts = await io.execute((anyone.stats(run, now=now), anyone.facts(run, limit, worker, now=now)))
    if isinstance(stored, BrokerError):
        raise stored
    if isinstance(facts, BrokerError):
        raise facts
    return explanation_of(stats_of(run, stored), facts)


def explanation_of(stats: Stats, facts: Facts) -> Explanation:
    """The facts with the terms of the capacity formula."""
    terms = terms_of(stats)
    return Explanation(
        stats, terms.concurrency, terms.staleness, terms.binding, facts.now, facts.sessions, facts.held, facts.due,
        facts.oldest_pending, facts.oldest_ready, _holding_at_least(stats, facts), facts.halt,
        terms.samples
    )  # fmt: skip


def _holding_at_least(stats: Stats, facts: Facts) -> Holding:
    """The totals. Where not all sessions were counted, they include what the listed slots show of the others."""
    found = facts.holding
    if found.counted >= stats.sessions:
        return found
    connected = [row.session for row in facts.held if row.deadline_ms > facts.now]
    return Holding(
        found.counted,
        max(found.busy, len(set(connected))),
        max(found.held, len(connected)),
        max(found.lost, len(facts.held) - len(connected)),
    )
