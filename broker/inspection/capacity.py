"""The capacity formula with its terms."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from broker.inspection.stats import Stats
    from broker.values.config import RunConfig

Binding = Literal["none", "concurrency", "staleness"]


@dataclass(frozen=True, slots=True)
class Terms:
    """The terms of a run's capacity, in tasks.

    Attributes:
        concurrency: `C - running`.
        staleness: `(S + version + 1) * B - (accepted + running)`; None without a bound.
    """

    concurrency: int
    staleness: int | None

    @property
    def capacity(self) -> int:
        """How many tasks may be started."""
        return self.concurrency if self.staleness is None else min(self.concurrency, self.staleness)

    @property
    def binding(self) -> Binding:
        """The term that keeps tasks from being started; if both do, concurrency, as in the answer of `claim`."""
        if self.capacity > 0:
            return "none"
        return "concurrency" if self.concurrency <= 0 else "staleness"


def terms(config: RunConfig, version: int, accepted: int, running: int) -> Terms:
    """The terms of AReaL's capacity formula (docs/protocol.md, Capacity).

    Args:
        config: C, B and S.
        version: the run's version.
        accepted: tasks trained and waiting to be trained, as the formula counts them.
        running: tasks that are running.
    """
    by_concurrency = config.concurrency - running
    if config.max_staleness is None:
        return Terms(by_concurrency, None)
    budget = (config.max_staleness + version + 1) * config.batch_size
    return Terms(by_concurrency, budget - (accepted + running))


def terms_of(stats: Stats) -> Terms:
    """The terms for the numbers of a run."""
    return terms(stats.config, stats.version, stats.accepted, stats.running)
