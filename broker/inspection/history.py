"""What a run did in the last minutes: rates, their course, progress and how long the rest takes, from several looks."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from broker.inspection.stats import Stats

#: For how long looks are kept, seconds.
KEEP_S = 600.0
#: Looks that are closer together than this, in seconds, replace each other, so that few are kept.
_APART_S = 0.5


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a run is with the tasks that it knows.

    Attributes:
        ended: tasks that were trained on, or ended dead or rejected.
        left: tasks that have not ended.
        left_s: how long the rest takes at the rate of the last minutes, in seconds; None: nothing ended in them.
    """

    ended: int
    left: int
    left_s: float | None

    @property
    def share(self) -> float:
        """The part that has ended, 0 to 1."""
        return self.ended / max(1, self.ended + self.left)


def ended(stats: Stats) -> int:
    """How many tasks have ended: trained on, dead or rejected, those that were freed since included."""
    freed = stats.totals.get("freed_dead", 0) + stats.totals.get("freed_rejected", 0)
    return stats.consumed + stats.dead + stats.rejected + freed


def left(stats: Stats) -> int:
    """How many tasks have not ended; not those of a sealed batch that is being trained."""
    return stats.pending + stats.delayed + stats.running + stats.ready + stats.batched


def results(stats: Stats) -> int:
    """How many results were accepted; of an admission run, how many rollouts."""
    return stats.accepted if stats.admission else stats.totals.get("results", 0)


class History:
    """The looks of the last minutes, oldest first."""

    def __init__(self) -> None:
        self._looks: deque[tuple[float, Stats]] = deque()

    def add(self, at_s: float, stats: Stats) -> None:
        """Adds a look.

        Args:
            at_s: when it was, in seconds of the run's clock.
            stats: the numbers.
        """
        looks = self._looks
        if looks and (at_s < looks[-1][0] or results(stats) < results(looks[-1][1])):
            looks.clear()  # the server forgot, or the run was purged and made anew
        if len(looks) > 1 and at_s - looks[-2][0] < _APART_S:
            looks.pop()
        looks.append((at_s, stats))
        while looks[0][0] < at_s - KEEP_S:
            looks.popleft()

    def rate(self, count: Callable[[Stats], int], over_s: float = 60.0) -> float | None:
        """How much a count grew, per second; None: there is one look only.

        Args:
            count: of a look.
            over_s: over the last so many seconds, or as many as there are.
        """
        if len(self._looks) < 2:
            return None
        last_at, last = self._looks[-1]
        first_at, first = next(look for look in self._looks if look[0] >= last_at - over_s)
        if last_at <= first_at:
            return None
        return max(0.0, (count(last) - count(first)) / (last_at - first_at))

    def course(self, count: Callable[[Stats], int], columns: int, over_s: float = 120.0) -> list[float]:
        """The rate per second in each of so many equal parts of the last time, the newest last.

        Args:
            count: of a look.
            columns: how many parts.
            over_s: how long they are together, seconds.

        Returns:
            The rates; 0 before the first look.
        """
        if len(self._looks) < 2:
            return [0.0] * columns
        end, step = self._looks[-1][0], over_s / columns
        at = [self._count_at(end - step * (columns - i), count) for i in range(columns + 1)]
        return [max(0.0, later - before) / step for before, later in pairwise(at)]

    def _count_at(self, at_s: float, count: Callable[[Stats], int]) -> float:
        """The count at a moment, on a line between the looks around it; before the first look, that of the first."""
        before_at, before = self._looks[0]
        if at_s <= before_at:
            return count(before)
        for later_at, later in self._looks:
            if later_at >= at_s:
                part = (at_s - before_at) / (later_at - before_at) if later_at > before_at else 1.0
                return count(before) + part * (count(later) - count(before))
            before_at, before = later_at, later
        return count(before)

    def progress(self) -> Progress:
        """How far the run is at the last look."""
        stats = self._looks[-1][1]
        rate, rest = self.rate(ended, 300.0), left(stats)
        return Progress(ended(stats), rest, rest / rate if rate else None)


#: The causes of wasted work: the counter of each, and its words.
WASTE: dict[str, str] = {
    "late": "late",
    "stale": "too stale",
    "expired": "expired",
    "failed": "failed",
    "faults": "worker faults",
    "discarded": "filtered",
    "cancelled": "cancelled",
    "rejected": "rejected",
    "surplus": "surplus",
}


def waste(stats: Stats) -> dict[str, int]:
    """What was generated or started in vain since the run began, by cause; causes that never came are left out."""
    return {words: number for name, words in WASTE.items() if (number := stats.totals.get(name, 0))}
