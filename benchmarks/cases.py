"""Cases: what one contender does in one scenario, and the values measured."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field


class NotRunError(Exception):
    """A case cannot be run here; the message says why."""


@dataclass(slots=True)
class Case:
    """One contender doing one thing.

    Args:
        scenario: short name of the scenario.
        name: the work that is measured.
        who: `ours`, `limit`, or the name of a peer.
        run: does the work once, on an empty server, and returns the measured values. The end of a value's name is its
            unit: `per_s`, `s`, `ms`, `us`, `bytes`, `mb_per_s`, `x` (a ratio), `count`.
        repeat: most repetitions, for a case that takes long; None: one in each round.
        clean: empty the server before each repetition.
    """

    scenario: str
    name: str
    who: str
    run: Callable[[], dict[str, float]]
    repeat: int | None = None
    clean: bool = True

    @property
    def label(self) -> str:
        """`scenario/who/name`."""
        return f"{self.scenario}/{self.who}/{self.name}"


@dataclass(slots=True)
class Repetition:
    """One repetition of a case.

    Args:
        round: number of the round.
        values: the measured values, by metric.
        ref_per_s: reference pairs a second, mean of the samples before and after.
        ref_drift: the larger of the two samples over the smaller.
    """

    round: int
    values: dict[str, float]
    ref_per_s: float
    ref_drift: float


@dataclass(slots=True)
class Outcome:
    """All repetitions of a case, or why there are none."""

    case: Case
    repetitions: list[Repetition] = field(default_factory=list)
    not_run: str = ""
    seconds: float = 0.0

    def values(self, metric: str) -> list[float]:
        """The metric in each repetition that has it."""
        return [r.values[metric] for r in self.repetitions if metric in r.values]

    def times_ref(self, metric: str) -> list[float]:
        """Rates as multiples of `ref`; durations in reference pairs."""
        return [
            x
            for r in self.repetitions
            if metric in r.values and (x := times_ref(metric, r.values[metric], r)) is not None
        ]

    @property
    def metrics(self) -> list[str]:
        """Names of the metrics, in order."""
        return list(dict.fromkeys(name for r in self.repetitions for name in r.values))


_SECONDS = {"s": 1.0, "ms": 1e-3, "us": 1e-6}


def unit_of(metric: str) -> str:
    """The unit that a metric's name ends with."""
    for unit in ("mb_per_s", "per_s", "bytes", "count", "ms", "us", "s", "x"):
        if metric == unit or metric.endswith(f"_{unit}"):
            return unit
    raise ValueError(f"the name of metric {metric!r} has no unit")


def times_ref(metric: str, value: float, repetition: Repetition) -> float | None:
    """A rate over the reference's rate, or how many reference pairs fit into a duration; None for other units."""
    unit = unit_of(metric)
    if unit == "per_s":
        return value / repetition.ref_per_s
    if unit in _SECONDS:
        return value * _SECONDS[unit] * repetition.ref_per_s
    return None
