"""What the demo shows while it runs."""

import io
from collections import Counter

from rich.console import Console

from broker.demo.chart import bar, curve, squeezed
from broker.demo.display import PlainLines, picture
from broker.demo.view import View


def view(**fields: object) -> View:
    made = View("demo-1", "valkey 9.1.2", steps=60, max_staleness=2)
    for name, value in fields.items():
        setattr(made, name, value)
    return made


def test_curve_fills_columns_from_below() -> None:
    assert curve([0, 50, 100], width=4, height=2, top=100) == ["  █ ", " ██ "]


def test_curve_squeezes_what_is_wider_than_its_room() -> None:
    assert squeezed([1, 3, 5, 7], 2) == [2, 6]
    assert squeezed([1.0, 2.0], 5) == [1.0, 2.0]
    assert all(len(line) == 30 for line in curve([float(i) for i in range(1000)], 30, 3, 1000))


def test_values_out_of_range_stay_within_the_picture() -> None:
    assert curve([-5, 500], width=2, height=1, top=100) == [" █"]


def test_bar_is_as_long_as_its_part() -> None:
    assert bar(0, 4) == ""
    assert bar(0.5, 4) == "██"
    assert bar(2, 4) == "████"
    assert bar(1 / 32, 4) == "▏"


def test_plain_lines_tell_each_step_and_deed_once() -> None:
    stream = io.StringIO()
    lines = PlainLines(stream)
    shown = view(returns=[20.0], deeds=["killed w1, started w4"])
    lines.show(shown)
    lines.show(shown)
    shown.returns = [20.0, 31.5]
    lines.show(shown)
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
        returns=[20.0, 250.0, 500.0],
        version=3,
        capacity=7,
        running=5,
        ready=11,
        staleness=Counter({0: 1, 2: 3}),
        requeued=13,
        late=Counter({"superseded": 2, "expired": 1}),
        workers=3,
        frozen=1,
        killed=4,
        deeds=["froze w1 beyond its lease"],
        violations=["task a was trained on twice"],
    )
    console = Console(file=io.StringIO(), width=100, force_terminal=False)
    console.print(picture(shown, 100))
    assert isinstance(console.file, io.StringIO)
    text = console.file.getvalue()
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
        console = Console(file=io.StringIO(), width=width, force_terminal=False)
        console.print(picture(view(), width))
