"""Shows the choices that `broker plan` compared: a table, a plot, what is recommended; or JSON."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, Final

from broker.cli.output import Output, Table

if TYPE_CHECKING:
    from collections.abc import Sequence

    from broker.planning.choices import Choice, Comparison, Row

_LABELS: Final = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"
#: Columns and lines of the plot.
_WIDTH, _HEIGHT = 60, 12


def tell(found: Comparison, output: Output) -> None:
    """Shows a comparison to a person."""
    from broker.errors.words import count
    from broker.planning.choices import nearest

    setting, rows, now, best = found.base, found.rows, found.now, found.best
    group = f" of {setting.samples} samples" if setting.samples > 1 else ""
    output.line(
        f"simulated: {count(setting.steps, 'step')} from the start of a run, batches of "
        f"{count(setting.config.batch_size, 'task')}{group}, a step takes {setting.train_s:g} s, "
        f"workers hold {count(setting.places, 'sample')} at once"
    )
    output.line(f"lengths: {setting.lengths.told}")
    if found.lengths_of_run:
        output.line("What was thrown away for its length is missing in them: then all rows look better than they are.")
    output.line()
    shows_enough = any(row.choice.enough for row in rows)
    columns = ["", "", "S", "D", "on_stale", "at once", "enough", "steps/h", "thrown away", "length", "staleness"]
    columns += ["worst", "given up", "trainer idle", "workers idle"]
    cells = [_cells(row, index, now, best) for index, row in enumerate(rows)]
    table = Table(columns, cells, numeric=frozenset({2, 3, *range(5, 15)}), optional=(12, 13, 14))
    output.table(table if shows_enough else table.without(frozenset({6})))
    output.line()
    output.line("length: the mean length of what is trained on, of the data's mean; thrown away: of the time")
    output.line("of generation. staleness, worst: of what is trained on. given up: tasks dropped for their age.")
    output.line()
    for line in _plot(rows):
        output.line(line)
    output.line()
    here = next((row for row in rows if row.choice == now), None)
    if here is not None:
        output.line(f"> the run is here: {_told(here)}")
    wanted = f"at most {found.wanted.waste:.0%} thrown away, and a length within {found.wanted.bias:.0%} of the data's"
    if found.wanted.staleness is not None:
        wanted += f", and staleness at most {found.wanted.staleness}"
    if best is not None:
        output.line(f"* recommended, for {wanted}: {_told(best)}")
    else:
        output.line(f"None is within what is wanted: {wanted}.")
        output.line(f"The nearest is {_told(nearest(rows, found.wanted))}")


def _cells(row: Row, index: int, now: Choice | None, best: Row | None) -> list[str]:
    choice, outcome = row.choice, row.outcome
    mark = (">" if choice == now else "") + ("*" if row is best else "")
    return [
        mark,
        _label(index),
        _bound(choice.max_staleness),
        _bound(choice.staleness_limit),
        choice.mode,
        "all" if choice.at_once is None else f"{choice.at_once:,}",
        _bound(choice.enough),
        f"{row.speed:,.3g}" if row.speed < 100 else f"{row.speed:,.0f}",
        f"{row.thrown_away:.0%}",
        f"{row.length:.2f}",
        f"{outcome.mean_staleness:.1f}",
        f"{outcome.worst_staleness}",
        f"{outcome.given_up:,}",
        f"{row.trainer_idle:.0%}",
        f"{row.workers_idle:.0%}",
    ]


def _label(index: int) -> str:
    return _LABELS[index] if index < len(_LABELS) else "."


def _bound(number: int | None) -> str:
    return "-" if number is None else f"{number}"


def _told(row: Row) -> str:
    choice = row.choice
    words = [f"max_staleness={choice.max_staleness}"]
    if choice.mode != "keep":
        words.append(f"staleness_limit={choice.staleness_limit}")
    words.append(f"on_stale={choice.mode}")
    if choice.at_once is not None:
        words.append(f"max_concurrent_rollouts={choice.at_once}")
    if choice.enough is not None:
        words.append(f"enough={choice.enough}")
    return (
        f"{' '.join(words)}\n  {row.speed:.3g} steps an hour, {row.thrown_away:.0%} thrown away, "
        f"length {row.length:.2f}, staleness {row.outcome.mean_staleness:.1f}, at most {row.outcome.worst_staleness}"
    )


def _plot(rows: Sequence[Row]) -> list[str]:
    """Speed to the right, the length of what is trained on upwards; `+` where several rows are."""
    right = max(row.speed for row in rows)
    top = max(1.0, *(row.length for row in rows))
    low = math.floor(10 * min(row.length for row in rows)) / 10
    if low >= top:
        low = 0.0
    canvas = [[" "] * _WIDTH for _ in range(_HEIGHT)]
    for index, row in enumerate(rows):
        line = _HEIGHT - 1 - round((row.length - low) / (top - low) * (_HEIGHT - 1))
        column = round(row.speed / right * (_WIDTH - 1))
        canvas[line][column] = _label(index) if canvas[line][column] == " " else "+"
    lines = ["length"]
    for number, line in enumerate(canvas):
        value = low + (top - low) * (_HEIGHT - 1 - number) / (_HEIGHT - 1)
        lines.append(f"{value:5.2f} |{''.join(line)}".rstrip())
    axis = f"{right:.3g} steps/h"
    return [*lines, f"      +{'-' * _WIDTH}", f"       0{axis:>{_WIDTH - 1}}"]


def document(found: Comparison) -> dict[str, Any]:
    """A comparison for JSON."""
    setting, best = found.base, found.best

    def plain(row: Row, index: int) -> dict[str, Any]:
        choice, outcome = row.choice, row.outcome
        return {
            "label": _label(index),
            "max_staleness": choice.max_staleness,
            "staleness_limit": choice.staleness_limit,
            "on_stale": choice.mode,
            "max_concurrent_rollouts": choice.at_once,
            "enough": choice.enough,
            "steps_per_hour": round(row.speed, 3),
            "thrown_away": round(row.thrown_away, 4),
            "length": round(row.length, 4),
            "mean_staleness": round(outcome.mean_staleness, 3),
            "worst_staleness": outcome.worst_staleness,
            "given_up": outcome.given_up,
            "trainer_idle": round(row.trainer_idle, 4),
            "workers_idle": round(row.workers_idle, 4),
            "now": choice == found.now,
            "recommended": row is best,
        }

    return {
        "run": found.run or None,
        "steps": setting.steps,
        "consumer_batch_size": setting.config.batch_size,
        "samples": setting.samples,
        "places": setting.places,
        "train_s": setting.train_s,
        "lengths": setting.lengths.told,
        "mean_length_s": round(setting.lengths.mean_s, 3),
        "waste": found.wanted.waste,
        "bias": found.wanted.bias,
        "most_stale": found.wanted.staleness,
        "rows": [plain(row, index) for index, row in enumerate(found.rows)],
    }
