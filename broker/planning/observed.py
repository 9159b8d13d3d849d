"""What a run has shown of itself so far: how long its rollouts and steps take, how much its workers hold."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from statistics import median
from typing import Final

from broker.inspection.events import Event
from broker.inspection.timeline import Step, Timeline

#: A step's time is the median of so many steps at most.
_STEPS: Final = 50


@dataclass(frozen=True, slots=True)
class Observed:
    """What the event log of a run tells.

    Attributes:
        train_s: how long a step takes, from the batch to the advance: the median; None: the log has no step.
        places: the largest number of samples that were held at once, as far as the log goes.
    """

    train_s: float | None
    places: int


def observed(events: Iterable[Event]) -> Observed:
    """Reads the log, the oldest event first."""
    timeline, places = Timeline(), 0
    for event in events:
        timeline.feed(event)
        places = max(places, len(timeline.held))
    times_s = list[float]()
    for number, step in timeline.steps.items():
        before = timeline.steps.get(number - 1)
        if step.sealed_ms and step.trained_ms:
            times_s.append(_took_s(step, before))
    return Observed(median(times_s[-_STEPS:]) if times_s else None, places)


def _took_s(step: Step, before: Step | None) -> float:
    """The batch may have been there before the step before it was trained."""
    return (step.trained_ms - max(step.sealed_ms, before.trained_ms if before else 0)) / 1000
