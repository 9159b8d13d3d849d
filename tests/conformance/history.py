"""Judges the event log of a run under test: the guarantees must hold at every transition, whatever the counters say."""

from __future__ import annotations

from collections.abc import Iterable

from broker import RunConfig
from broker.inspection.judge import Judge

Transition = tuple[str, list[str]]


class History:
    """Replays transitions in order, and answers questions of tests.

    Args:
        config: the run's config, which did not change.
        transitions: the log from its beginning.
    """

    def __init__(self, config: RunConfig, transitions: Iterable[Transition]) -> None:
        self.judge = Judge(config)
        self.late: list[tuple[str, str]] = []
        for kind, words in transitions:
            self.judge.feed(kind, words)
            if kind == "late":
                self.late.append((words[0], words[1]))

    @property
    def problems(self) -> list[str]:
        """The breaches of guarantees."""
        return [f"{breach.guarantee}: {breach.text}" for breach in self.judge.breaches]

    @property
    def sealed(self) -> dict[int, list[str]]:
        """The sealed batches, by step."""
        return self.judge.batches

    @property
    def results(self) -> dict[str, list[str]]:
        """The accepted attempts of each task that is in a sealed batch."""
        return {
            name: [sample.attempt for _, sample in sorted(self.judge.tasks[name].done.items())]
            for names in self.judge.batches.values()
            for name in names
        }

    @property
    def most_running(self) -> int:
        """The largest number of tasks that were running at one time."""
        return self.judge.totals.most_running

    @property
    def starts(self) -> int:
        """How often a task was started."""
        return self.judge.totals.started
