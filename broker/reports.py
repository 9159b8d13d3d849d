"""What people read of a run: stats, audit, explanation, made of the raw answers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from broker.capacity import Binding, terms_of
from broker.errors import BrokerError
from broker.flow import Call, Flow
from broker.models import RunConfig, Stats
from broker.operations import anyone
from broker.operations.anyone import Facts, HeldRow, Holding, SessionRow


def stats_of(run: str, stored: Mapping[str, str]) -> Stats:
    """Stats from the fields that the script answers."""

    def number(name: str) -> int:
        return int(stored.get(name) or 0)

    return Stats(
        run=run,
        version=number("version"),
        step_next=number("step_next"),
        epoch=stored["epoch"],
        capacity=number("capacity"),
        accepted=number("accepted"),
        running=number("running"),
        pending=number("n_pending"),
        delayed=number("n_delayed"),
        open_slots=number("n_open"),
        ready=number("n_ready"),
        batched=number("open_size"),
        consumed=number("total_consumed"),
        dead=number("n_dead"),
        rejected=number("n_rejected"),
        sessions=number("n_sessions"),
        lapsed=number("n_lapsed"),
        paused=stored.get("paused") or "",  # pyright: ignore[reportArgumentType] -- checked by the model
        recovering=int(stored["recovering"]) if stored.get("recovering") else None,
        floor=number("floor"),
        operator_checkpoints=[
            int(version)
            for version in (stored.get("operator_checkpoints") or "").split()
            if int(version) >= number("floor")
        ],
        config=RunConfig.from_fields(stored),
        totals={
            name.removeprefix("total_"): int(value)
            for name, value in sorted(stored.items())
            if name.startswith("total_")
        },
        admission=stored.get("admission") == "1",
    )


@dataclass(frozen=True, slots=True)
class Audit:
    """What disagreed.

    Args:
        drift: counter -> (stored, recomputed) where they differ.
        repaired: whether the counters were rewritten.
        problems: tasks that are not where their record says, a sentence each (only a deep audit looks).
        tasks_checked: how many tasks a deep audit looked at.
    """

    drift: dict[str, tuple[int, int]]
    repaired: bool = False
    problems: list[str] = field(default_factory=list[str])
    tasks_checked: int = 0

    @property
    def ok(self) -> bool:
        """Whether nothing disagreed."""
        return not self.drift and not self.problems


def audit_flow(run: str, now: int | None) -> Flow[Audit]:
    """Recomputes the counters."""
    counters: dict[str, tuple[int, int]] | BrokerError = (yield Call((anyone.audit(run, now=now),)))[0]
    if isinstance(counters, BrokerError):
        raise counters
    return Audit({name: pair for name, pair in counters.items() if pair[0] != pair[1]})


@dataclass(frozen=True, slots=True)
class Explanation:
    """Why the run does what it does, as facts.

    Args:
        stats: the numbers.
        by_concurrency: C - running.
        by_staleness: (S + version + 1) * B - (accepted + running), None without a bound.
        binding: the term that decides, `concurrency` or `staleness` (where both do, `concurrency`);
            `none` while capacity is positive.
        now_ms: the run's clock.
        sessions: workers, by the end of their lease; the first ones only, `stats.sessions` is their number.
        held: slots held of the oldest running tasks; the first ones only.
        due: when what is next due, in ms of the run's clock (0: nothing): delayed, retries, deadlines, sessions.
        oldest_pending: the task that is started next, or empty.
        oldest_ready: the task that is taken next, or empty.
        holding: how many workers hold how many slots, in all.
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


def explain_flow(run: str, now: int | None, limit: int = 50) -> Flow[Explanation]:
    """Gathers the facts in one round trip."""
    stored, facts = yield Call((anyone.stats(run, now=now), anyone.facts(run, limit, now=now)))
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
        facts.oldest_pending, facts.oldest_ready, facts.holding
    )  # fmt: skip
