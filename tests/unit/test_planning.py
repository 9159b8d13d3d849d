"""Lengths, choices and advice of `broker plan`."""

from __future__ import annotations

import json
import random
import re
import shlex
from pathlib import Path

import pytest

from broker import RunConfig
from broker.cli.main import main
from broker.inspection.events import Event
from broker.planning.choices import Choice, Row, Wanted, compare, grid, nearest, recommended, steps_for
from broker.planning.lengths import lognormal, of_histogram, read_lengths
from broker.planning.observed import observed
from broker.planning.setting import Outcome, Setting
from tests.child import ROOT

GIVEN = ("--lengths", "lognormal:60:1", "--train-s", "40", "--places", "24", "--consumer-batch-size", "4")


@pytest.mark.parametrize(
    ("text", "mean_s"),
    [
        ("fixed:30", 30.0),
        ("lognormal:60:1.0", 60.0),
        ("exponential:12", 12.0),
        ("uniform:10:50", 30.0),
        ("0.8*fixed:10+0.2*fixed:200", 48.0),
        ("fixed:10+fixed:20", 15.0),
    ],
)
def test_lengths_have_the_mean_that_they_say(text: str, mean_s: float) -> None:
    lengths, rng = read_lengths(text), random.Random(1)
    assert lengths.mean_s == pytest.approx(mean_s)
    assert sum(lengths.draw(rng) for _ in range(40_000)) / 40_000 == pytest.approx(mean_s, rel=0.03)
    assert f"{mean_s:g} s" in lengths.told


def test_lengths_of_a_file_are_drawn_from_it(tmp_path: Path) -> None:
    path = tmp_path / "seconds.txt"
    path.write_text("# measured\n10\n\n20.5  # slow\n")
    lengths, rng = read_lengths(f"{path}"), random.Random(1)
    assert lengths.mean_s == 15.25
    assert {lengths.draw(rng) for _ in range(50)} == {10.0, 20.5}


def test_lengths_of_a_histogram_lie_in_its_buckets() -> None:
    lengths, rng = of_histogram({20: 3, 30: 1}), random.Random(1)
    drawn = [lengths.draw(rng) * 1000 for _ in range(20_000)]
    assert sum(drawn) / len(drawn) / 1000 == pytest.approx(lengths.mean_s, rel=0.02)
    assert all(2**10 <= ms < 2**10.5 or 2**15 <= ms < 2**15.5 for ms in drawn)
    assert sum(ms < 2**11 for ms in drawn) / len(drawn) == pytest.approx(0.75, abs=0.02)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("nofile.txt", "is no file, and describes no lengths"),
        ("lognormal:60", "describes no lengths"),
        ("lognormal:60:x", "SIGMA of 'lognormal:60:x' is 'x'"),
        ("lognormal:60:9", "at most 5"),
        ("fixed:0", "must be a number above 0"),
        ("fixed:nan", "must be a number above 0"),
        ("uniform:5:4", "TO is less than FROM"),
        ("x*fixed:1", "the share in 'x*fixed:1' is 'x'"),
        ("fixed:1+normal:3", "'normal:3' describes no lengths"),
    ],
)
def test_what_describes_no_lengths_is_refused_with_the_reason(text: str, told: str) -> None:
    with pytest.raises(ValueError, match=re.escape(told)):
        read_lengths(text)


@pytest.mark.parametrize(("content", "told"), [(b"1\nx\n", "line 2 of"), (b"\n", "has no lengths"), (b"\xff", "text")])
def test_a_file_without_lengths_is_refused(content: bytes, told: str, tmp_path: Path) -> None:
    path = tmp_path / "seconds.txt"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=told):
        read_lengths(f"{path}")


#: S, D, mode -> steps an hour, thrown away, mean length of the data's, mean staleness: computed by another program.
FRONTIER = {
    (2, 2, "requeue"): (40, 0.73, 0.83, 0.5),
    (2, 8, "requeue"): (79, 0.22, 0.88, 1.6),
    (2, 16, "requeue"): (85, 0.08, 0.92, 1.8),
    (2, 2, "wait"): (17, 0.0, 0.98, 2.0),
    (2, 16, "wait"): (57, 0.0, 0.96, 2.0),
    (2, None, "keep"): (88, 0.0, 0.95, 1.9),
    (2, 2, "drop"): (89, 0.41, 0.53, 1.4),
}


def test_the_frontier_is_that_of_another_simulation() -> None:
    config = RunConfig(consumer_batch_size=64, max_stale_requeues=1_000_000, max_wait_ms=10**9)
    base = Setting(config, lognormal(60, 1.0), 40.0, 256, steps=80, heartbeat_s=0.0)
    for row in compare(base, [Choice(s, d, mode) for s, d, mode in FRONTIER]):  # type: ignore[arg-type]
        speed, wasted, length, staleness = FRONTIER[
            row.choice.max_staleness, row.choice.staleness_limit, row.choice.mode
        ]
        assert row.speed == pytest.approx(speed, rel=0.03)
        assert row.thrown_away == pytest.approx(wasted, abs=0.02)
        assert row.length == pytest.approx(length, abs=0.02)
        assert row.outcome.mean_staleness == pytest.approx(staleness, abs=0.1)


def test_the_grid_has_each_choice_once() -> None:
    found = grid([0, 2], [1, 2, 8], ["requeue", "keep"], [None], [None])
    assert found == [
        Choice(0, 1, "requeue"),
        Choice(0, 2, "requeue"),
        Choice(0, 8, "requeue"),
        Choice(0, None, "keep"),
        Choice(2, 2, "requeue"),
        Choice(2, 8, "requeue"),
        Choice(2, None, "keep"),
    ]
    assert grid([2], [], ["drop"], [5, None], [None]) == [
        Choice(2, d, "drop", c) for d in (2, 8, 16) for c in (5, None)
    ]
    assert grid([None], [3], ["drop", "keep"], [None], [None]) == [Choice(None, None, "keep")]
    assert (steps_for(4, 1), steps_for(64, 8), steps_for(4096, 8)) == (200, 31, 20)


def test_synchronous_runs_and_runs_without_a_bound_are_simulated() -> None:
    base = Setting(RunConfig(consumer_batch_size=4), lognormal(0.01, 1.0), 40.0, 8, steps=5)
    synchronous, unbounded = compare(base, [Choice(0, 0, "requeue"), Choice(None, None, "keep")])
    assert synchronous.outcome.worst_staleness == 0
    assert 0 < unbounded.outcome.worst_staleness <= 5
    assert synchronous.trainer_idle == pytest.approx(0, abs=0.01)


def row(speed: float, thrown_away: float, length: float, worst: int = 4) -> Row:
    outcome = Outcome(staleness={worst: 1}, tasks=1)  # type: ignore[arg-type]
    return Row(Choice(1, worst, "requeue"), outcome, speed, thrown_away, length, 0.0, 0.0)


def test_the_fastest_within_what_is_wanted_is_recommended_and_of_equals_the_least_stale() -> None:
    rows = [row(100, 0.2, 1.0), row(90, 0.05, 0.95, 16), row(89, 0.05, 0.95, 8), row(70, 0.0, 1.0), row(95, 0.0, 0.8)]
    assert recommended(rows, Wanted(0.1, 0.1)) is rows[2]
    assert recommended(rows, Wanted(0.1, 0.1, staleness=4)) is rows[3]
    assert recommended(rows, Wanted(0.3, 0.3)) is rows[0]
    assert recommended(rows[:1], Wanted(0.1, 0.1)) is None
    assert nearest([rows[0], rows[4]], Wanted(0.15, 0.1)) is rows[0]


def test_a_log_tells_how_long_steps_take_and_how_much_was_held() -> None:
    def event(at_ms: int, *transitions: tuple[str, str]) -> Event:
        return Event(f"{at_ms}-0", transitions)

    log = [
        event(0, ("claim", "a#0.1.x 0 1.e s~1.n"), ("claim", "b#0.1.x 0 1.e s~1.n")),
        event(1_000, ("done", "a#0.1.x 0 1.e")),
        event(1_500, ("seal", "0 1 d")),
        event(2_000, ("seal", "1 1 d")),  # ahead of its training
        event(4_500, ("advance", "1 1.e")),
        event(8_500, ("advance", "2 1.e")),
    ]
    seen = observed(log)
    assert (seen.train_s, seen.places) == (3.5, 2)
    assert observed([]).train_s is None


def plan(capsys: pytest.CaptureFixture[str], *argv: str) -> tuple[int, str, str]:
    code = main(["plan", *argv])
    printed = capsys.readouterr()
    return code, printed.out, printed.err


def test_a_plan_shows_rows_a_plot_and_what_it_recommends(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = plan(
        capsys, *GIVEN, "--steps", "20", "--max-staleness", "2", "--on-stale", "requeue,keep", "--bias", "50%"
    )
    assert (code, err) == (0, "")
    rows = re.findall(r"^(\*?) +([a-d]) +2 +(2|8|16|-) +(requeue|keep) ", out, flags=re.MULTILINE)
    assert [found[1:] for found in rows] == [
        ("a", "2", "requeue"), ("b", "8", "requeue"), ("c", "16", "requeue"), ("d", "-", "keep")
    ]  # fmt: skip
    (best,) = (found for found in rows if found[0])
    assert "recommended, for at most 10% thrown away, and a length within 50% of the data's: max_staleness=2" in out
    assert f"on_stale={best[3]}" in out
    plotted = out.partition("\nlength\n")[2].partition("steps/h")[0]
    assert {*"abcd+"} >= set(re.findall(r"[a-d+]", plotted.partition("      +-")[0])) != set()


PAGE = (ROOT / "docs/staleness.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("line", re.findall(r"^broker plan (--.*)$", PAGE, flags=re.MULTILINE))
def test_the_commands_of_the_page_run(line: str, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = plan(capsys, *shlex.split(line), "--steps", "2")
    assert code in (0, 1)
    assert err == ""
    assert "steps/h" in out


@pytest.mark.parametrize(("sigma", "label"), [("1.0", "e"), ("1.5", "g")])
def test_the_figures_of_the_page_are_those_that_the_command_prints(
    sigma: str, label: str, capsys: pytest.CaptureFixture[str]
) -> None:
    shown = [line.split() for line in PAGE.splitlines() if re.match(rf"[* ]  {label}  2 ", line)][sigma == "1.5"]
    if shown[0] == "*":
        del shown[0]
    choice = ["--on-stale", shown[3], *(["--staleness-limit", shown[2]] if shown[2] != "-" else [])]
    given = ["--lengths", f"lognormal:60:{sigma}", "--train-s", "40", "--places", "256", "--max-staleness", "2"]
    _, out, _ = plan(capsys, *given, *choice)
    (printed,) = re.findall(r"^[* ] +a +(2 .*)$", out, flags=re.MULTILINE)
    assert printed.split() == shown[1:]


def test_json_has_all_numbers_of_each_row(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = plan(
        capsys, *GIVEN, "--steps", "10", "--max-staleness", "1", "--samples", "4", "--enough", "3,4", "--json",
        "--max-concurrent-rollouts", "none,2", "--waste", "0", "--bias", "0", "--most-stale", "9",
    )  # fmt: skip
    told = json.loads(out)
    assert code == 1
    assert (told["waste"], told["bias"], told["most_stale"], told["samples"]) == (0.0, 0.0, 9, 4)
    assert len(told["rows"]) == (3 * 3 + 1) * 4
    assert {each["max_concurrent_rollouts"] for each in told["rows"]} == {None, 2}
    assert {each["enough"] for each in told["rows"]} == {3, 4}
    assert not any(each["recommended"] or each["now"] for each in told["rows"])


def test_without_a_choice_that_is_wanted_the_nearest_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = plan(capsys, *GIVEN, "--steps", "5", "--on-stale", "drop", "--waste", "0%", "--bias", "0%")
    assert code == 1
    assert "None is within what is wanted: at most 0% thrown away" in out
    assert "The nearest is max_staleness=" in out


@pytest.mark.parametrize(
    ("argv", "told"),
    [
        ((), "Name a run, or give --lengths, --train-s, --places"),
        (("--lengths", "fixed:1"), "give --train-s, --places"),
        ((*GIVEN, "--lengths", "x"), "--lengths: 'x' is no file"),
        ((*GIVEN, "--on-stale", "later"), "'later' is none of requeue, drop, keep, wait"),
        ((*GIVEN, "--waste", "2"), "'2' is not a share"),
        ((*GIVEN, "--max-staleness", "1,x"), "'x' is not a whole number"),
        ((*GIVEN, "--max-staleness", "4", "--staleness-limit", "2", "--on-stale", "drop"), "nothing to compare"),
        ((*GIVEN, "--samples", "2", "--enough", "3"), "3 is not from 1 to the 2 samples"),
        ((*GIVEN, "--places", "100001"), "100001 is not from 1 to 100000"),
        ((*GIVEN, "--max-concurrent-rollouts", "0"), "0 is not a number of tasks at once"),
        ((*GIVEN, "--max-stale-requeues", "-1"), "max_stale_requeues"),
        (("math-7b",), "which server?"),
    ],
)
def test_what_cannot_be_planned_is_refused(
    argv: tuple[str, ...], told: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("BROKER_URL", raising=False)
    code, out, err = plan(capsys, *argv)
    assert (code, out) == (2, "")
    assert told in err
    assert "Traceback" not in err
