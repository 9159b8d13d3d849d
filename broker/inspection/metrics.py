"""The numbers of a run as metrics: a flat dict for training logs, and Prometheus's text."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Final, Literal

from broker.inspection.history import WASTE

if TYPE_CHECKING:
    from broker.inspection.stats import Stats


#: The media type of Prometheus's text.
CONTENT_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"


@dataclass(frozen=True, slots=True)
class Described:
    """What is the same for a metric of every run.

    Attributes:
        kind: a counter only grows, until a recovery.
        about: what it counts, in words.
        label: the name of the label that tells its numbers apart; empty: there is one.
    """

    kind: Literal["counter", "gauge", "summary"]
    about: str
    label: str = ""


@dataclass(frozen=True, slots=True)
class Metric:
    """One number of a run.

    Attributes:
        name: its name in `METRICS`.
        value: the number.
        of: the value of its label.
    """

    name: str
    value: float
    of: str = ""


#: Every metric by its name; Prometheus's has the prefix `broker_`.
METRICS: Final[dict[str, Described]] = {
    "policy_version": Described("gauge", "the version of the policy"),
    "next_step": Described("gauge", "the first step whose batch is not sealed"),
    "batch_size": Described("gauge", "consumer_batch_size of the config, 1 at least"),
    "capacity_tasks": Described("gauge", "how many tasks may be started now; may be negative"),
    "tasks": Described("gauge", "tasks by state; of a run of AReaL, rollouts", "state"),
    "workers": Described("gauge", "workers: connected, silent for longer than their lease, quarantined", "state"),
    "tasks_trained_total": Described("counter", "tasks trained on"),
    "tasks_enqueued_total": Described("counter", "tasks enqueued"),
    "results_total": Described("counter", "accepted results"),
    "waste_total": Described(
        "counter", "work in vain since the run began: late and expired attempts, stale and filtered tasks", "cause"
    ),
    "lost_seconds_total": Described("counter", "how long attempts generated in vain since the run began", "cause"),
    "attempt_mean_seconds": Described(
        "gauge",
        "mean length of attempts since the run began: of the results that were kept, of all that ended (at least)",
        "of",
    ),
    "generation_seconds": Described(
        "summary", "for how long attempts were held whose results were accepted, since the run began", "quantile"
    ),
    "paused": Described("gauge", "1: no task is handed out, until somebody resumes the run"),
    "draining": Described("gauge", "1: what is started is finished, and no task is started"),
    "halted": Described("gauge", "1: so much failed that the run is halted"),
    "finished": Described("gauge", "1: the run is finished"),
    "recovering": Described("gauge", "1: a recovery is under way"),
    "trainer_silence_seconds": Described("gauge", "how long ago the trainer gave its last sign of life"),
}


def metrics_of(stats: Stats) -> Iterator[Metric]:
    """The metrics of a run. How many there are does not depend on the number of tasks or workers."""
    yield Metric("policy_version", stats.version)
    yield Metric("next_step", stats.step_next)
    yield Metric("batch_size", stats.config.batch_size)
    yield Metric("capacity_tasks", stats.capacity)
    states = {"running": stats.running} if stats.admission else stats.by_state()
    for state, number in states.items():
        if state != "consumed":  # that one only grows: tasks_trained_total
            yield Metric("tasks", number, state)
    connected = stats.sessions - stats.lapsed
    workers = {"connected": connected, "silent": stats.lapsed, "quarantined": stats.quarantined}
    for state, number in workers.items():
        yield Metric("workers", number, state)
    yield Metric("tasks_trained_total", stats.consumed)
    yield Metric("tasks_enqueued_total", stats.totals.get("enqueued", 0))
    yield Metric("results_total", stats.totals.get("results", 0))
    for name, cause in WASTE.items():  # zeros, too: `rate` misses the first of a cause that appears later
        yield Metric("waste_total", stats.totals.get(name, 0), cause.replace(" ", "_"))
    for cause, seconds in stats.lost_s.items():
        yield Metric("lost_seconds_total", seconds, cause)
    for name, seconds in stats.mean_s.items():
        yield Metric("attempt_mean_seconds", seconds, name)
    for name, seconds in stats.generation_s.items():
        yield Metric("generation_seconds", seconds, f"0.{name.removeprefix('p')}")
    yield Metric("paused", float(stats.paused == "paused"))
    yield Metric("draining", float(stats.paused == "draining"))
    yield Metric("halted", float(stats.halted > 0))
    yield Metric("finished", float(stats.finished))
    yield Metric("recovering", float(stats.recovering is not None))
    if stats.trainer_silent_s is not None:
        yield Metric("trainer_silence_seconds", stats.trainer_silent_s)


def flat(stats: Stats, batch: Mapping[str, float] = MappingProxyType({})) -> dict[str, float]:
    """The metrics by name, for W&B, TensorBoard or MLflow: `broker/tasks/ready`, `broker/generation_seconds/p50`.

    Args:
        stats: the run's.
        batch: numbers of the trainer's last batch by name: `broker/batch/wait_seconds`.
    """
    names = {"0.50": "p50", "0.90": "p90", "0.99": "p99"}
    found: dict[str, float] = {}
    for metric in metrics_of(stats):
        of = names.get(metric.of, metric.of)
        found["/".join(word for word in ("broker", metric.name, of) if word)] = float(metric.value)
    return found | {f"broker/batch/{name}": value for name, value in batch.items()}


def prometheus(runs: Iterable[Stats]) -> str:
    """The metrics of runs in Prometheus's text format, version 0.0.4."""
    by_name: dict[str, list[tuple[str, Metric]]] = {}
    for stats in runs:
        for metric in metrics_of(stats):
            by_name.setdefault(metric.name, []).append((stats.run, metric))
    lines: list[str] = []
    for name, rows in by_name.items():
        described = METRICS[name]
        lines += [f"# HELP broker_{name} {described.about}", f"# TYPE broker_{name} {described.kind}"]
        for run, metric in rows:
            # The names of runs, states and causes hold neither quotes nor backslashes.
            label = f',{described.label}="{metric.of}"' if described.label else ""
            lines.append(
                f'broker_{name}{{run="{run}"{label}}} {metric.value:g}'
                if _is_short(metric.value)
                else f'broker_{name}{{run="{run}"{label}}} {metric.value!r}'
            )
    return "\n".join([*lines, ""])


def _is_short(value: float) -> bool:
    return float(f"{value:g}") == value
