"""The numbers of a run as metrics: a flat dict for training logs, and Prometheus's text."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from broker.inspection.history import waste

if TYPE_CHECKING:
    from broker.inspection.stats import Stats


@dataclass(frozen=True, slots=True)
class Metric:
    """One number of a run.

    Attributes:
        name: Prometheus's name, without the prefix `broker_`.
        kind: whether it only grows.
        about: what it counts, in words.
        value: the number.
        label: the name of the label that tells it from others of its name; empty: there is one.
        of: the value of that label.
    """

    name: str
    kind: Literal["counter", "gauge"]
    about: str
    value: float
    label: str = ""
    of: str = ""


_STATES = "tasks by state; of a run of AReaL, rollouts"
_WORKERS = "workers: connected, silent for longer than their lease, quarantined"
_WASTE = "work in vain since the run began, by cause: " + "late and expired attempts, stale and filtered tasks"
_LOST = "how long attempts generated in vain since the run began, in seconds by cause"
_MEAN = "mean length of attempts: of the results that were kept, and of all that ended (at least), since the run began"
_TOOK = "for how long attempts were held whose results were accepted, by quantile, since the run began"


def metrics_of(stats: Stats) -> Iterator[Metric]:
    """The metrics of a run. How many there are does not depend on the number of tasks or workers."""
    yield Metric("policy_version", "gauge", "the version of the policy", stats.version)
    yield Metric("next_step", "gauge", "the first step whose batch is not sealed", stats.step_next)
    yield Metric("capacity_tasks", "gauge", "how many tasks may be started now; may be negative", stats.capacity)
    states = {"running": stats.running}
    if not stats.admission:
        states |= {"pending": stats.pending, "delayed": stats.delayed, "ready": stats.ready, "batched": stats.batched}
        states |= {"dead": stats.dead, "rejected": stats.rejected}
    for state, number in states.items():
        yield Metric("tasks", "gauge", _STATES, number, "state", state)
    connected = stats.sessions - stats.lapsed
    workers = {"connected": connected, "silent": stats.lapsed, "quarantined": stats.quarantined}
    for state, number in workers.items():
        yield Metric("workers", "gauge", _WORKERS, number, "state", state)
    yield Metric("tasks_trained_total", "counter", "tasks trained on", stats.consumed)
    yield Metric("tasks_enqueued_total", "counter", "tasks enqueued", stats.totals.get("enqueued", 0))
    yield Metric("results_total", "counter", "accepted results", stats.totals.get("results", 0))
    for cause, number in waste(stats).items():
        yield Metric("waste_total", "counter", _WASTE, number, "cause", cause.replace(" ", "_"))
    for cause, seconds in stats.lost_s.items():
        yield Metric("lost_seconds_total", "counter", _LOST, seconds, "cause", cause)
    for name, seconds in stats.mean_s.items():
        yield Metric("attempt_mean_seconds", "gauge", _MEAN, seconds, "of", name)
    for name, seconds in stats.generation_s.items():
        yield Metric("generation_seconds", "gauge", _TOOK, seconds, "quantile", f"0.{name.removeprefix('p')}")
    yield Metric("paused", "gauge", "1: no task is handed out; 0.5: the run is draining", _paused(stats))
    yield Metric("halted", "gauge", "1: so much failed that the run is halted", float(stats.halted > 0))
    yield Metric("finished", "gauge", "1: the run is finished", float(stats.finished))
    yield Metric("recovering", "gauge", "1: a recovery is under way", float(stats.recovering is not None))
    if stats.trainer_silent_s is not None:
        about = "how long ago the trainer gave its last sign of life"
        yield Metric("trainer_silence_seconds", "gauge", about, stats.trainer_silent_s)


def _paused(stats: Stats) -> float:
    return {"": 0.0, "draining": 0.5}.get(stats.paused, 1.0)


def flat(stats: Stats) -> dict[str, float]:
    """The metrics by name, for W&B, TensorBoard or MLflow: `broker/tasks/ready`, `broker/generation_seconds/p50`."""
    names = {"0.50": "p50", "0.90": "p90", "0.99": "p99"}
    found: dict[str, float] = {}
    for metric in metrics_of(stats):
        of = names.get(metric.of, metric.of) if metric.label == "quantile" else metric.of
        found["/".join(word for word in ("broker", metric.name, of) if word)] = float(metric.value)
    return found


def prometheus(runs: Iterable[Stats]) -> str:
    """The metrics of runs in Prometheus's text format, version 0.0.4."""
    by_name: dict[str, list[tuple[str, Metric]]] = {}
    for stats in runs:
        for metric in metrics_of(stats):
            by_name.setdefault(metric.name, []).append((stats.run, metric))
    lines: list[str] = []
    for name, rows in by_name.items():
        lines += [f"# HELP broker_{name} {rows[0][1].about}", f"# TYPE broker_{name} {rows[0][1].kind}"]
        for run, metric in rows:
            # The names of runs, states and causes hold neither quotes nor backslashes.
            label = f',{metric.label}="{metric.of}"' if metric.label else ""
            lines.append(
                f'broker_{name}{{run="{run}"{label}}} {metric.value:g}'
                if _is_short(metric.value)
                else f'broker_{name}{{run="{run}"{label}}} {metric.value!r}'
            )
    return "\n".join([*lines, ""])


def _is_short(value: float) -> bool:
    return float(f"{value:g}") == value
