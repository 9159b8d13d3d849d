"""The table and the JSON of a run."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.cases import Outcome, unit_of
from benchmarks.goals import judged
from benchmarks.quantiles import median

SHOWN_UNITS = {
    "per_s": "/s",
    "mb_per_s": " MB/s",
    "bytes": " B",
    "count": "",
    "ms": " ms",
    "us": " us",
    "s": " s",
    "x": " x",
}


def number(value: float) -> str:
    """A number with about three significant digits and grouped thousands."""
    size = abs(value)
    digits = 0 if size >= 100 else 1 if size >= 10 else 2 if size >= 1 else 3
    return f"{value:,.{digits}f}"


def spread(values: Sequence[float], unit: str) -> str:
    """`median unit (min-max)`."""
    text = number(median(values)) + SHOWN_UNITS[unit]
    return text if len(values) == 1 else f"{text} ({number(min(values))}-{number(max(values))})"


def table(outcomes: Sequence[Outcome]) -> str:
    """A line for each metric of each case: value and multiple of ref, as median (min-max); then the cases not run."""
    rows = [("case", "metric", "value", "x ref")]
    not_run: list[str] = []
    for outcome in outcomes:
        label = outcome.case.label
        if outcome.not_run:
            not_run.append(f"not run: {label}: {outcome.not_run}")
        for metric in outcome.metrics:
            ratios = outcome.times_ref(metric)
            rows.append(
                (
                    label,
                    metric,
                    spread(outcome.values(metric), unit_of(metric)),
                    spread(ratios, "count") if ratios else "",
                )
            )
            label = ""
    return "\n".join([*_aligned(rows), *not_run])


def goals_table(goals: Sequence[dict[str, Any]]) -> str:
    """A line for each goal that this run could judge."""
    rows = [("goal", "asked", "measured", "")]
    for goal in goals:
        unit = goal["unit"]
        asked = f"{'>=' if goal['at_least'] else '<='} {goal['bound']:g} {unit}"
        spread_text = f"{number(goal['median'])} {unit} ({number(goal['min'])}-{number(goal['max'])})"
        rows.append((goal["goal"], asked, spread_text, "reached" if goal["reached"] else "NOT reached"))
    return "\n".join(_aligned(rows))


def _aligned(rows: Sequence[tuple[str, ...]]) -> list[str]:
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]


def document(outcomes: Sequence[Outcome], about: dict[str, Any]) -> dict[str, Any]:
    """Everything that was measured, for `--json`."""
    refs = [r.ref_per_s for outcome in outcomes for r in outcome.repetitions]
    return {
        "about": about,
        "ref_per_s": {"median": median(refs), "min": min(refs), "max": max(refs)} if refs else None,
        "goals": judged(outcomes),
        "cases": [_case(outcome) for outcome in outcomes],
    }


def _case(outcome: Outcome) -> dict[str, Any]:
    case = outcome.case
    head: dict[str, Any] = {"scenario": case.scenario, "who": case.who, "name": case.name}
    if outcome.not_run:
        head["not_run"] = outcome.not_run
    head["seconds"] = round(outcome.seconds, 3)
    head["repetitions"] = [
        {"round": r.round, "ref_per_s": r.ref_per_s, "ref_drift": r.ref_drift, "values": r.values}
        for r in outcome.repetitions
    ]
    head["metrics"] = {metric: _metric(outcome, metric) for metric in outcome.metrics}
    return head


def _metric(outcome: Outcome, metric: str) -> dict[str, Any]:
    values, ratios = outcome.values(metric), outcome.times_ref(metric)
    told: dict[str, Any] = {"median": median(values), "min": min(values), "max": max(values)}
    if ratios:
        told["x_ref"] = {"median": median(ratios), "min": min(ratios), "max": max(ratios)}
    return told


def write_json(path: Path, told: dict[str, Any]) -> None:
    """Writes the document."""
    path.write_text(json.dumps(told, indent=1) + "\n", encoding="utf-8")
