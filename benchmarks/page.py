"""Writes the numbers of one or several runs into a page: `python -m benchmarks.page docs/performance.md RUN.json ...`.

Only the text between two marks is replaced: `measured` stands for all numbers, `numbers` for the few of a README. If
several runs have a case, the last run's values count.
"""

# ruff: noqa: T201 - printing is its purpose

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks import summary
from benchmarks.cases import unit_of
from benchmarks.report import SHOWN_UNITS, number

#: The marks of a section in a page.
BEGIN, END = "<!-- {} -->", "<!-- /{} -->"

#: Scenario -> its title.
_TITLES = {
    "steady": "End to end: rollouts that were trained",
    "enqueue": "Enqueue",
    "cycle": "Full cycle: claim, no-op, accepted result",
    "latency": "Latency of an idle worker",
    "results": "Large results",
    "backlog": "Many tasks waiting",
    "heartbeats": "Heartbeats",
    "trainer": "The trainer",
    "server": "Server time by script, and what features cost",
    "anatomy": "Inside the scripts: commands, and the functions of lua/ around them (an item's share)",
    "recovery": "Checkpoint, audit, recovery",
    "codec": "Codec",
    "imports": "Import",
}
_BUDGET = ("round_trips_count", "script_calls_count", "commands_count", "sent_bytes", "received_bytes")


def measured(runs: Sequence[dict[str, Any]]) -> str:
    """All numbers, as Markdown."""
    cases = _cases(runs)
    goals = {goal["goal"]: goal for run in runs for goal in run["goals"]}
    parts = [_about(runs), "### Goals", _goals(list(goals.values()))]
    budget = [c for c in cases.values() if c["scenario"] == "budget" and c["metrics"]]
    if budget:
        parts += ["### Budget of each operation", _budget(budget)]
    for scenario, title in _TITLES.items():
        found = [c for c in cases.values() if c["scenario"] == scenario and c["metrics"]]
        if found:
            parts += [f"### {title}", _scenario(found)]
    if missing := [c for c in cases.values() if "not_run" in c]:
        parts += [
            "### Not run",
            "\n".join(f"- {c['scenario']}, {c['who']}, {c['name']}: {c['not_run']}" for c in missing),
        ]
    return "\n\n".join(parts)


def numbers(runs: Sequence[dict[str, Any]]) -> str:
    """The few numbers of a README, as Markdown."""
    return _table(("", "measured, median", "beside"), summary.rows(_cases(runs)))


def _cases(runs: Sequence[dict[str, Any]]) -> dict[tuple[str, str, str], dict[str, Any]]:
    return {(c["scenario"], c["who"], c["name"]): c for run in runs for c in run["cases"]}


def _about(runs: Sequence[dict[str, Any]]) -> str:
    lines: list[str] = []
    for run in runs:
        about, ref = run["about"], run["ref_per_s"] or {"median": 0, "min": 0, "max": 0}
        machine = (
            f"{about['server']}, {about['allocator']}, {about['cores']} cores, load {about['load']:.1f} at the start"
        )
        pairs = f"ref {ref['median']:,.0f} pairs/s ({ref['min']:,.0f}-{ref['max']:,.0f})"
        lines.append(f"- {about['date']}: {machine}; {pairs}; {about['seconds']:,.0f} s")
        lines += [f"  - {name}: {what}" for name, what in about.get("peers", {}).items()]
    return "\n".join(lines)


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in lines)


def _goals(goals: Sequence[dict[str, Any]]) -> str:
    rows = [
        (
            g["goal"],
            f"{'at least' if g['at_least'] else 'at most'} {g['bound']:g} {g['unit']}",
            f"{number(g['median'])} ({number(g['min'])}-{number(g['max'])})",
            "yes" if g["reached"] else "**no**",
        )
        for g in goals
    ]
    return _table(("goal", "asked", "measured, median (min-max)", "reached"), rows)


def _budget(cases: Sequence[dict[str, Any]]) -> str:
    rows = [[c["name"], *(number(c["metrics"][m]["median"]) for m in _BUDGET)] for c in cases]
    return _table(("operation", "round trips", "script calls", "commands inside", "bytes sent", "bytes received"), rows)


def _scenario(cases: Sequence[dict[str, Any]]) -> str:
    rows: list[tuple[str, str, str, str, str]] = []
    for case in sorted(cases, key=lambda c: ("ours", "limit").index(c["who"]) if c["who"] in {"ours", "limit"} else 2):
        for metric, told in case["metrics"].items():
            ratio = told.get("x_ref")
            name = metric.removesuffix(f"_{unit_of(metric)}").replace("_", " ")
            rows.append((case["who"], case["name"], name, _spread(told, SHOWN_UNITS[unit_of(metric)]),
                         _spread(ratio, "") if ratio and metric.endswith("per_s") else ""))  # fmt: skip
    return _table(("who", "what", "", "median (min-max)", "x ref"), rows)


def _spread(told: dict[str, float], unit: str) -> str:
    text = number(told["median"]) + unit
    return text if told["min"] == told["max"] else f"{text} ({number(told['min'])}-{number(told['max'])})"


def main(argv: Sequence[str]) -> int:
    """Replaces the sections that the page has; returns the exit code."""
    if len(argv) < 2:
        print("usage: python -m benchmarks.page PAGE.md RUN.json ...", file=sys.stderr)
        return 2
    page = Path(argv[0])
    text = page.read_text(encoding="utf-8")
    runs = [json.loads(Path(name).read_text(encoding="utf-8")) for name in argv[1:]]
    found = 0
    for name, written in (("measured", measured), ("numbers", numbers)):
        begin, end = BEGIN.format(name), END.format(name)
        if begin in text and end in text:
            text = f"{text.split(begin)[0]}{begin}\n\n{written(runs)}\n\n{end}{text.split(end)[1]}"
            found += 1
    if not found:
        print(f"{page} has no {BEGIN.format('measured')} ... {END.format('measured')}", file=sys.stderr)
        return 2
    page.write_text(text, encoding="utf-8")
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
