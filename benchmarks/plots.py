"""PNG plots of a run, made from the run's document alone."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.axes import Axes

#: The plots of each scenario: metric -> (text of its axis, whether as multiples of ref, whether logarithmic).
_SHOWN: dict[str, dict[str, tuple[str, bool, bool]]] = {
    "enqueue": {"rate_per_s": ("tasks, x ref", True, True)},
    "cycle": {"rate_per_s": ("full cycles, x ref", True, True)},
    "latency": {"start_p50_ms": ("enqueue to start, p50, ms", False, True),
                "result_p50_ms": ("enqueue to result, p50, ms", False, True)},
    "results": {"cycle_mb_per_s": ("written and read, MB/s", False, True)},
    "server": {"cycle_us": ("server time for a full cycle, us", False, True)},
    "trainer": {"last_ms": ("1,024 results of 256 KiB, ms", False, False)},
    "codec": {"both_us": ("encode and decode, us", False, True)},
    "imports": {"import_ms": ("import, ms", False, False)},
    "backlog": {"claim_of_64_us": ("server time of a claim in 64, us a task", False, False)},
}  # fmt: skip

_OURS, _LIMIT, _PEER = "#1b6ca8", "#9a9a9a", "#d98c3f"


def write_plots(told: dict[str, Any], directory: Path) -> list[Path]:
    """Writes a file for each scenario that the document has. Returns their paths."""
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt

    directory.mkdir(parents=True, exist_ok=True)
    written: list[Path] = []
    for scenario, metrics in _SHOWN.items():
        shown = [
            (metric, how, rows) for metric, how in metrics.items() if (rows := _rows(told, scenario, metric, how[1]))
        ]
        if not shown:
            continue
        tallest = max(len(rows) for _, _, rows in shown)
        size = (7.5 * len(shown), 1.2 + 0.28 * tallest)
        figure, axes = plt.subplots(1, len(shown), figsize=size, squeeze=False, layout="constrained")
        for axis, (_, (text, _, logarithmic), rows) in zip(axes[0], shown, strict=True):
            _draw(axis, rows, text, logarithmic=logarithmic)
        figure.suptitle(scenario)
        path = directory / f"{scenario}.png"
        figure.savefig(path, dpi=110)
        plt.close(figure)
        written.append(path)
    return written


def _rows(told: dict[str, Any], scenario: str, metric: str, relative: bool) -> list[tuple[str, str, dict[str, float]]]:
    """Label, who and {median, min, max} of each case that has the metric, the best first."""
    rows: list[tuple[str, str, dict[str, float]]] = []
    for case in told["cases"]:
        values = case["metrics"].get(metric) if case["scenario"] == scenario else None
        if values and (not relative or "x_ref" in values):
            rows.append((f"{case['who']}: {case['name']}", case["who"], values["x_ref"] if relative else values))
    more = metric.endswith("_per_s")
    return sorted(rows, key=lambda row: row[2]["median"], reverse=more)


def _draw(axis: Axes, rows: list[tuple[str, str, dict[str, float]]], text: str, *, logarithmic: bool) -> None:
    places = range(len(rows))
    medians = [values["median"] for _, _, values in rows]
    spread = [
        [values["median"] - values["min"] for _, _, values in rows],
        [values["max"] - values["median"] for _, _, values in rows],
    ]
    colours = [{"ours": _OURS, "limit": _LIMIT}.get(who, _PEER) for _, who, _ in rows]
    axis.barh(places, medians, xerr=spread, color=colours, ecolor="#444444", capsize=2, height=0.7)
    axis.set_yticks(places, [label for label, _, _ in rows], fontsize=8)
    axis.invert_yaxis()
    axis.set_xlabel(text)
    if logarithmic:
        axis.set_xscale("log")
    axis.grid(axis="x", alpha=0.3)
