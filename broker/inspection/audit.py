"""Whether the counters of a run are what its structures say."""

from __future__ import annotations

from dataclasses import dataclass, field

from broker.errors import BrokerError
from broker.protocol import anyone
from broker.protocol.flow import Call, Flow


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
