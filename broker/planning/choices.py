"""The choices of staleness that are compared, and which of them is recommended."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

from broker.planning.setting import Mode, Outcome, Setting
from broker.planning.simulation import Simulation
from broker.values.config import RunConfig

#: Without other wishes, so many samples are trained on in each simulated run.
SAMPLES: Final = 16_000
#: And a simulated run has at least and at most so many steps.
LEAST_STEPS: Final = 20
MOST_STEPS: Final = 200
#: Settings whose speed differs by less are equally fast: then the less stale one is better.
EQUALLY_FAST: Final = 0.02


@dataclass(frozen=True, slots=True)
class Choice:
    """What the owner of a run may choose.

    Attributes:
        max_staleness: S; None: no bound.
        staleness_limit: D; None: no bound.
        mode: what happens at D.
        at_once: C, or None where as much runs as the workers can hold.
        enough: of each group, or None.
    """

    max_staleness: int | None
    staleness_limit: int | None
    mode: Mode
    at_once: int | None = None
    enough: int | None = None


@dataclass(frozen=True, slots=True)
class Wanted:
    """What the owner of a run tolerates.

    Attributes:
        waste: the largest share of generation that may be thrown away.
        bias: how far the mean length of what is trained may be from the data's, as a share of the latter.
        staleness: the largest staleness of what is trained; None: any.
    """

    waste: float
    bias: float
    staleness: int | None = None


@dataclass(frozen=True, slots=True)
class Row:
    """A choice, and what it came to.

    Attributes:
        choice: what was chosen.
        outcome: the simulated run.
        speed: steps an hour.
        thrown_away: the share of the time of generation that was in vain.
        length: the mean length of what was trained on, of the data's mean.
        trainer_idle: the share of the time that the trainer waited for a batch.
        workers_idle: the share of all places that stood empty.
    """

    choice: Choice
    outcome: Outcome
    speed: float
    thrown_away: float
    length: float
    trainer_idle: float
    workers_idle: float

    def excess(self, wanted: Wanted) -> float:
        """By how much it is beyond what is wanted; 0: it is within."""
        staler = 0.0
        if wanted.staleness is not None:
            staler = max(0, self.outcome.worst_staleness - wanted.staleness) / max(1, wanted.staleness)
        return max(0.0, self.thrown_away - wanted.waste, abs(1 - self.length) - wanted.bias, staler)


@dataclass(frozen=True, slots=True)
class Comparison:
    """Choices that were compared for a run or for given lengths.

    Attributes:
        base: what they have in common.
        rows: the choices, and what they came to.
        wanted: what is tolerated.
        run: the run's name, or empty.
        now: the choice that the run has made, or None.
        lengths_of_run: the lengths are those that the run has shown.
    """

    base: Setting
    rows: Sequence[Row]
    wanted: Wanted
    run: str = ""
    now: Choice | None = None
    lengths_of_run: bool = False

    @property
    def best(self) -> Row | None:
        """What is recommended; None: no row is within what is wanted."""
        return recommended(self.rows, self.wanted)


def steps_for(batch_size: int, samples: int) -> int:
    """How many steps are simulated where nobody says."""
    return max(LEAST_STEPS, min(MOST_STEPS, SAMPLES // (batch_size * samples)))


def limits_for(max_staleness: int | None) -> tuple[int | None, ...]:
    """The values of D that are compared for S where nobody names any: S, the default, and twice that."""
    if not max_staleness:
        return (max_staleness,)
    return (max_staleness, 4 * max_staleness, 8 * max_staleness)


def grid(
    staleness: Iterable[int | None],
    limits: Sequence[int],
    modes: Sequence[Mode],
    at_once: Sequence[int | None],
    enough: Sequence[int | None],
) -> list[Choice]:
    """All choices of these values, each once.

    Args:
        staleness: values of S.
        limits: values of D, of which those below S are left out; none: those of `limits_for`.
        modes: what happens at D; `keep` knows no D, and without S there is no other.
        at_once: values of C; None: no bound.
        enough: of each group; None: all samples.
    """
    found: dict[Choice, None] = {}
    for s in staleness:
        ds = limits_for(s) if s is None or not limits else [d for d in limits if d >= s]
        for mode in modes if s is not None else ("keep",):
            for d in ds if mode != "keep" else (None,):
                for c in at_once:
                    found |= dict.fromkeys(Choice(s, d, mode, c, k) for k in enough)
    return list(found)


def applied(base: Setting, choice: Choice) -> Setting:
    """The setting with the choice made."""
    changes: dict[str, Any] = {
        "max_staleness": choice.max_staleness,
        "staleness_limit": choice.staleness_limit if choice.max_staleness is not None else None,
        "on_stale": choice.mode,
        "max_concurrent_rollouts": choice.at_once,
    }
    if choice.at_once is None:
        changes["max_concurrent_samples"] = base.places  # given alone it takes the place of C
    config = RunConfig.model_validate({**base.config.to_document(), **changes})
    return replace(base, config=config, enough=choice.enough)


def compare(base: Setting, choices: Sequence[Choice], progress: Callable[[int], None] | None = None) -> list[Row]:
    """Simulates the choices, one after the other.

    Args:
        base: what they have in common.
        choices: the choices.
        progress: takes the number of steps that are done, of all runs together.
    """
    rows: list[Row] = []
    for number, choice in enumerate(choices):
        before = number * base.steps

        def tell(step: int, before: int = before) -> None:
            if progress is not None:
                progress(before + step)

        rows.append(row_of(applied(base, choice), choice, tell))
    return rows


def row_of(setting: Setting, choice: Choice, progress: Callable[[int], None] | None = None) -> Row:
    """Simulates one choice."""
    outcome = Simulation(setting).run(progress)
    return Row(
        choice,
        outcome,
        speed=outcome.steps_per_hour,
        thrown_away=outcome.thrown_away,
        length=outcome.mean_length_s / setting.lengths.mean_s,
        trainer_idle=1 - outcome.steps * setting.train_s / outcome.seconds,
        workers_idle=1 - outcome.busy_s / (setting.places * outcome.seconds),
    )


def recommended(rows: Sequence[Row], wanted: Wanted) -> Row | None:
    """The fastest row within what is wanted; of equally fast ones the least stale."""
    within = [row for row in rows if not row.excess(wanted)]
    fastest = max((row.speed for row in within), default=0.0)
    fast = [row for row in within if row.speed >= (1 - EQUALLY_FAST) * fastest]
    return min(fast, key=lambda row: (row.outcome.worst_staleness, row.outcome.mean_staleness), default=None)


def nearest(rows: Sequence[Row], wanted: Wanted) -> Row:
    """The row that is least beyond what is wanted."""
    return min(rows, key=lambda row: (row.excess(wanted), -row.speed))
