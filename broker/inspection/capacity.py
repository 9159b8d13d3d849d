"""The capacity formula with its terms, for people who ask why a run starts nothing."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from broker.inspection.stats import Stats

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
        """The term that keeps tasks from being started; where both do, concurrency, which `claim` names then."""
        if self.capacity > 0:
            return "none"
        return "concurrency" if self.concurrency <= 0 else "staleness"


def terms_of(stats: Stats) -> Terms:
    """The terms of AReaL's capacity formula (docs/protocol.md, Capacity) with the numbers of a run."""
    config, running = stats.config, stats.running
    concurrency = config.concurrency - running
    if config.max_staleness is None:
        return Terms(concurrency, None)
    opened = (config.max_staleness + stats.version + 1) * config.batch_size
    return Terms(concurrency, opened - (stats.accepted + running))
