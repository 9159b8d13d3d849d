"""The capacity formula with its terms, in numbers and in words."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from broker.inspection.stats import Stats
    from broker.values.config import RunConfig

Binding = Literal["none", "samples", "concurrency", "staleness"]


_BINDING = {
    "none": "No term binds: capacity is positive.",
    "samples": "The term of max_concurrent_samples is the one that binds.",
    "concurrency": "The term of max_concurrent_rollouts is the one that binds.",
    "staleness": "The term of max_staleness is the one that binds.",
}


@dataclass(frozen=True, slots=True)
class Terms:
    """The terms of a run's capacity, in tasks.

    Attributes:
        concurrency: `C - running`.
        samples: `max_concurrent_samples - held`, the slots that may still be held; None without a bound on them.
        staleness: `(S + version + 1) * B - (accepted + running)`; None without a bound.
    """

    concurrency: int
    staleness: int | None
    samples: int | None = None

    @property
    def capacity(self) -> int:
        """How many tasks may be started."""
        return min(each for each in (self.concurrency, self.staleness, self.samples) if each is not None)

    @property
    def binding(self) -> Binding:
        """The term that keeps tasks from being started; of several the first in the order of `claim`'s answers."""
        if self.capacity > 0:
            return "none"
        if self.samples is not None and self.samples <= 0:
            return "samples"
        return "concurrency" if self.concurrency <= 0 else "staleness"


def terms(config: RunConfig, version: int, accepted: int, running: int, held: int = 0) -> Terms:
    """The terms of AReaL's capacity formula (docs/protocol.md, Capacity).

    Args:
        config: C, B and S.
        version: the run's version.
        accepted: tasks trained and waiting to be trained, as the formula counts them.
        running: tasks that are running.
        held: slots that are held.
    """
    by_concurrency = config.concurrency - running
    by_samples = None if config.max_concurrent_samples is None else config.max_concurrent_samples - held
    if config.max_staleness is None:
        return Terms(by_concurrency, None, by_samples)
    budget = (config.max_staleness + version + 1) * config.batch_size
    return Terms(by_concurrency, budget - (accepted + running), by_samples)


def terms_of(stats: Stats) -> Terms:
    """The terms for the numbers of a run."""
    return terms(stats.config, stats.version, stats.accepted, stats.running, stats.held or 0)


def formula(stats: Stats) -> tuple[str, ...]:
    """The capacity formula (docs/protocol.md, Capacity) in lines: names, a run's numbers, the result, what binds."""
    config, running, terms = stats.config, stats.running, terms_of(stats)
    named, given, found = list[str](), list[str](), list[int]()
    if config.bounds_tasks:
        named.append("C - running")
        given.append(f"{config.concurrency} - {running}")
        found.append(terms.concurrency)
    if terms.samples is not None:
        named.append("max_concurrent_samples - held")
        given.append(f"{config.max_concurrent_samples} - {stats.held}")
        found.append(terms.samples)
    if config.max_staleness is not None and terms.staleness is not None:
        named.append("(S + version + 1) * B - (accepted + running)")
        given.append(
            f"({config.max_staleness} + {stats.version} + 1) * {config.batch_size} - ({stats.accepted} + {running})"
        )
        found.append(terms.staleness)
    unbound = "     (max_staleness is not bounded)" if config.max_staleness is None else ""
    if len(named) == 1:
        return (
            f"capacity = {named[0]}{unbound}",
            f"         = {given[0]} = {terms.capacity}",
            _BINDING[terms.binding],
        )
    return (
        f"capacity = min({', '.join(named)}){unbound}",
        f"         = min({', '.join(given)})",
        f"         = min({', '.join(map(str, found))}) = {terms.capacity}",
        _BINDING[terms.binding],
    )
