"""Compares the counters of a run with the sets that they count."""

from __future__ import annotations

from dataclasses import dataclass, field

from broker.connections.base import BaseTransport
from broker.protocol import anyone
from broker.protocol.script_call import Now


@dataclass(frozen=True, slots=True)
class Audit:
    """The differences that an audit found.

    Args:
        drift: counter -> (stored, recomputed) where they differ.
        repaired: whether the counters were rewritten.
        problems: tasks that are not where their record says, a sentence each (deep audits only).
        tasks_checked: how many tasks a deep audit looked at.
    """

    drift: dict[str, tuple[int, int]]
    repaired: bool = False
    problems: list[str] = field(default_factory=list[str])
    tasks_checked: int = 0

    @property
    def ok(self) -> bool:
        """Whether the audit found no difference."""
        return not self.drift and not self.problems


async def audit(io: BaseTransport, run: str, now: Now) -> Audit:
    """Recomputes the counters."""
    counters = await io.call(anyone.audit(run, now=now))
    return Audit({name: pair for name, pair in counters.items() if pair[0] != pair[1]})
