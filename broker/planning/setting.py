"""What is simulated, and what it comes to."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Literal

from broker.planning.lengths import Lengths
from broker.values.config import RunConfig

#: `on_stale`: what happens to a task at the limit of staleness.
Mode = Literal["requeue", "drop", "keep", "wait"]


@dataclass(frozen=True, slots=True)
class Setting:
    """What is simulated.

    Args:
        config: B, S, D, what happens at D, and the bounds on what runs at once.
        lengths: how long a sample takes.
        train_s: how long the trainer takes for a step.
        places: how many samples all workers together work on at once.
        samples, enough: of each task.
        steps: the length of the run.
        heartbeat_s: a worker learns within this time that what it works on is too old; 0: at once.
        redraws: a sample that starts over takes another time; else the same time again.
        seed: of the lengths. The same seed gives all settings the same prompts.
    """

    config: RunConfig
    lengths: Lengths
    train_s: float
    places: int
    samples: int = 1
    enough: int | None = None
    steps: int = 200
    heartbeat_s: float = 20.0
    redraws: bool = False
    seed: int = 1


@dataclass(slots=True)
class Outcome:
    """What a simulated run came to; times in seconds.

    Attributes:
        seconds: how long the steps took.
        steps: how many there were.
        wasted_s: for how long samples were generated in vain.
        used_s: for how long those were generated that were trained on.
        trained: how many samples were trained on.
        tasks: how many tasks were trained on.
        given_up: tasks that were dropped for their age.
        staleness: the number of trained tasks by their staleness.
        busy_s: for how long workers were at work, together.
    """

    seconds: float = 0.0
    steps: int = 0
    wasted_s: float = 0.0
    used_s: float = 0.0
    trained: int = 0
    tasks: int = 0
    given_up: int = 0
    staleness: Counter[int] = field(default_factory=Counter[int])
    busy_s: float = 0.0

    @property
    def steps_per_hour(self) -> float:
        """Steps in an hour."""
        return self.steps / self.seconds * 3600

    @property
    def thrown_away(self) -> float:
        """The share of the time of generation that was in vain."""
        return self.wasted_s / max(1e-9, self.wasted_s + self.used_s)

    @property
    def mean_length_s(self) -> float:
        """The mean length of the samples that were trained on."""
        return self.used_s / max(1, self.trained)

    @property
    def mean_staleness(self) -> float:
        """The mean staleness of the tasks that were trained on."""
        return sum(behind * number for behind, number in self.staleness.items()) / max(1, self.tasks)

    @property
    def worst_staleness(self) -> int:
        """The largest staleness of a task that was trained on."""
        return max(self.staleness, default=0)
