"""What the demo shows while it runs."""

import io
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

from rich.console import Console

from broker.demo.display import PlainLines, View, curve, picture
from broker.demo.options import DemoOptions, Summary
from broker.inspection.judge import Totals
from broker.inspection.stats import Stats
from broker.values.config import RunConfig

NOTHING = Summary(
    steps=0,
    consumed=0,
    duplicates=0,
    max_staleness_seen=0,
    max_staleness=2,
    late_refused=0,
    requeued=0,
    workers_killed=0,
    return_first=None,
    return_last=None,
    seconds=0.0,
    server="valkey 9.1.2",
    trainer_kills=0,
    trained_exactly_once=True,
    lost=0,
    max_capacity_seen=0,
    max_capacity=48,
)


def stats(**fields: int) -> Stats:
    names = ("version", "step_next", "capacity", "accepted", "running", "pending", "delayed", "ready", "batched")
    zeros = dict.fromkeys((*names, "consumed", "dead", "rejected", "sessions"), 0)
    return Stats(run="demo-1", epoch="1.a", config=RunConfig(consumer_batch_size=16), **(zeros | fields))


NO_STATS = stats()


def view(
    summary: Summary = NOTHING,
    stats: Stats = NO_STATS,
    totals: Totals | None = None,
    returns: Sequence[float] = (),
    frozen: int = 0,
    deeds: Sequence[str] = (),
) -> View:
    return View(DemoOptions(run="demo-1"), summary, stats, totals or Totals(), returns, frozen, deeds)


def drawn(view: View, width: int) -> str:
    console = Console(file=io.StringIO(), width=width, force_terminal=False)
    console.print(picture(view, width))
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def test_curve_fills_columns_from_below() -> None:
    assert curve([0, 50, 100], width=4, height=2, top=100) == ["  █ ", " ██ "]


def test_curve_squeezes_what_is_wider_than_its_room() -> None:
    assert curve([1, 3, 5, 7], width=2, height=1, top=8) == ["▂▆"]
    assert all(len(line) == 30 for line in curve([float(i) for i in range(1000)], 30, 3, 1000))


def test_values_out_of_range_stay_within_the_picture() -> None:
    assert curve([-5, 500], width=2, height=1, top=100) == [" █"]


def test_plain_lines_tell_each_step_and_deed_once() -> None:
    stream = io.StringIO()
    lines = PlainLines(stream)
    deeds = ["killed w1, started w4"]
    lines.show(view(returns=[20.0], deeds=deeds))
    lines.show(view(returns=[20.0], deeds=deeds))
    lines.show(view(returns=[20.0, 31.5], deeds=deeds))
    told = stream.getvalue().splitlines()
    assert len(told) == 3
    assert "killed w1" in told[0]
    assert "step 1/60  return 20.0" in told[1]
    assert "step 2/60  return 31.5" in told[2]


def test_steps_done_again_after_a_recovery_are_told_again() -> None:
    stream = io.StringIO()
    lines = PlainLines(stream)
    for returns in ([20.0, 30.0], [20.0], [20.0, 33.0]):
        lines.show(view(returns=returns))
    assert [line.split("  step ")[1][0] for line in stream.getvalue().splitlines()] == ["1", "2", "2"]


def test_picture_has_all_that_a_watcher_wants_to_know() -> None:
    shown = view(
        summary=replace(NOTHING, requeued=13, workers_killed=4, violations=["task a was trained on twice"]),
        stats=stats(version=3, capacity=7, running=5, ready=11),
        totals=Totals(staleness=Counter({0: 1, 2: 3}), late=Counter({"superseded": 2, "expired": 1})),
        returns=[20.0, 250.0, 500.0],
        frozen=1,
        deeds=["froze w1 beyond its lease"],
    )
    text = drawn(shown, 100)
    for expected in (
        "step 3 of 60",
        "500.0",
        "2 behind",
        "75%",
        "13",
        "1 expired, 2 superseded",
        "1 frozen",
        "4 killed",
    ):
        assert expected in text
    assert "froze w1 beyond its lease" in text
    assert "task a was trained on twice" in text


def test_picture_can_be_drawn_before_anything_has_happened() -> None:
    for width in (20, 80, 300):
        lines = drawn(view(), width).splitlines()
        assert len(lines) > 10
        assert all(len(line) <= width for line in lines)
