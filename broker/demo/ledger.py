"""What the referee writes down: tasks as the event log tells them, counts, and broken rules."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Final, Literal

#: Where a task is. The broker's states, and three more: `consumed` (its step is done), `lost` (in a batch of a step
#: that a recovery undid, not dealt with yet), `gone` (dead or rejected).
State = Literal["pending", "running", "ready", "batched", "consumed", "lost", "gone"]

#: States that count against the budget (S + 1) * B: started, and not yet trained on.
IN_USE: Final[frozenset[State]] = frozenset({"running", "ready", "batched"})

#: Violations that are kept in words; more of the same add nothing.
_MOST_TOLD: Final = 20


@dataclass(frozen=True, slots=True)
class Held:
    """A slot in somebody's hands: the policy of the claim, and whose session."""

    version: int
    epoch: str
    session: str


@dataclass(slots=True)
class Traced:
    """A task.

    Attributes:
        state: where it is.
        step: whose batch it is in, or was trained by; -1: none.
        oldest_told: oldest version as the broker had it when it was batched.
        done: version and epoch of the accepted results, by slot, since it was last waiting.
    """

    state: State = "pending"
    step: int = -1
    oldest_told: int = -1
    done: dict[str, tuple[int, str]] = field(default_factory=dict[str, tuple[int, str]])


@dataclass(slots=True)
class Tally:
    """What was counted so far.

    Attributes:
        version: the newest one of the history that survives.
        consumed: tasks trained on in that history.
        duplicates: tasks trained on twice in it, and second accepted results of a slot.
        staleness: how many trained tasks were how many versions behind; steps that were undone count, too.
        requeued: slots that were handed out again.
        accepted: accepted results.
        late: refused results, by answer.
        ended: attempts that ended without a result, by reason.
        recoveries: how often a trainer went back to a checkpoint.
        most_in_use: most tasks that were started and not yet trained on, at any time.
    """

    version: int = 0
    consumed: int = 0
    duplicates: int = 0
    staleness: Counter[int] = field(default_factory=Counter[int])
    requeued: int = 0
    accepted: int = 0
    late: Counter[str] = field(default_factory=Counter[str])
    ended: Counter[str] = field(default_factory=Counter[str])
    recoveries: int = 0
    most_in_use: int = 0

    @property
    def late_refused(self) -> int:
        """Refused results of all kinds."""
        return self.late.total()

    @property
    def max_staleness_seen(self) -> int:
        """Staleness of the oldest rollout that was trained on; 0 when there was none."""
        return max(self.staleness, default=0)


class Verdict:
    """The broken rules.

    Attributes:
        violations: in words.
        broken: how often, by rule.
    """

    def __init__(self) -> None:
        self.violations: list[str] = []
        self.broken: Counter[str] = Counter()

    def against(self, rule: str, text: str) -> None:
        """Writes a violation down."""
        self.broken[rule] += 1
        if len(self.violations) < _MOST_TOLD:
            self.violations.append(text)
