"""The arguments of `broker demo`, its output and its exit codes."""

import json
from dataclasses import replace

import pytest

from broker.cli.commands import demo
from broker.cli.main import main
from broker.demo import supervisor
from broker.demo.options import DemoOptions, Summary
from broker.demo.processes import DemoFailed

SUMMARY = Summary(
    steps=60,
    consumed=960,
    duplicates=0,
    max_staleness_seen=2,
    max_staleness=2,
    late_refused=8,
    requeued=32,
    workers_killed=3,
    return_first=20.0,
    return_last=500.0,
    seconds=12.5,
    server="valkey 9.1.2 (embedded)",
    trainer_kills=0,
    trained_exactly_once=True,
    lost=0,
    max_capacity_seen=48,
    max_capacity=48,
)


def given(*words: str) -> DemoOptions:
    """The options that the demo is run with."""
    seen: list[DemoOptions] = []

    def note(options: DemoOptions) -> Summary:
        seen.append(options)
        return SUMMARY

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(supervisor, "run_demo", note)
        assert main(["demo", *words]) == 0
    return seen[0]


def test_without_arguments_it_uses_an_embedded_server(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("BROKER_URL", raising=False)
    assert given() == DemoOptions()
    assert given().url == "embedded://"


def test_server_of_the_environment_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BROKER_URL", "redis://head:6379/0")
    assert given().url == "redis://head:6379/0"
    assert given("--url", "unix:///tmp/s").url == "unix:///tmp/s"


def test_every_option_arrives(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("BROKER_URL", raising=False)
    numbers = ["--steps", "7", "--workers", "2", "--samples", "8", "--max-staleness", "3", "--seed", "5"]
    assert given(*numbers, "--run", "r", "--json", "--chaos", "all") == DemoOptions(
        7, 2, 8, 3, 5, "embedded://", "r", "all", json=True
    )


def test_chaos_alone_means_workers() -> None:
    assert given("--chaos").chaos == "workers"
    assert given("--chaos", "--json").chaos == "workers"
    assert given().chaos is None


@pytest.mark.parametrize(
    "words",
    [
        ["--steps", "0"],
        ["--steps", "-1"],
        ["--steps", "many"],
        ["--workers", "0"],
        ["--samples", "0"],
        ["--samples", "100000"],
        ["--max-staleness", "-1"],
        ["--seed", "-1"],
        ["--chaos", "server"],
    ],
)
def test_bad_argument_is_a_usage_error(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["demo", *words]) == 2
    assert words[0] in capsys.readouterr().err


def outcome(monkeypatch: pytest.MonkeyPatch, result: Summary | Exception, *words: str) -> int:
    def run(options: DemoOptions) -> Summary:
        if isinstance(result, Exception):
            raise result
        return result

    monkeypatch.setattr(supervisor, "run_demo", run)
    return main(["demo", *words])


def test_json_is_one_object_and_nothing_else(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert outcome(monkeypatch, SUMMARY, "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert found["return_last"] == 500.0
    expected = {"steps", "consumed", "duplicates", "max_staleness_seen", "max_staleness", "late_refused", "requeued"}
    expected |= {"workers_killed", "return_first", "return_last", "seconds", "server"}
    expected |= {"trainer_kills", "trained_exactly_once", "lost", "max_capacity_seen", "max_capacity"}
    assert found.keys() == expected


def test_broken_guarantee_is_told_and_exits_1(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    broken = replace(SUMMARY, duplicates=1, violations=["task a was trained on twice"])
    assert outcome(monkeypatch, broken, "--json") == 1
    printed = capsys.readouterr()
    assert json.loads(printed.out)["duplicates"] == 1
    assert "task a was trained on twice" in printed.err
    assert outcome(monkeypatch, broken) == 1
    assert "BROKEN" in capsys.readouterr().out


@pytest.mark.parametrize(("number", "code"), [(2, 130), (15, 143)])
def test_interrupted_demo_prints_what_it_has(
    number: int, code: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    early = replace(SUMMARY, steps=0, return_first=None, return_last=None, signal=number)
    assert outcome(monkeypatch, early, "--json") == code
    assert json.loads(capsys.readouterr().out)["return_first"] is None
    assert outcome(monkeypatch, early) == code
    assert "no step was finished" in capsys.readouterr().out


def test_demo_that_cannot_go_on_exits_2(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert outcome(monkeypatch, DemoFailed("the demo's w1 ended"), "--json") == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert "the demo's w1 ended" in printed.err


def test_missing_extra_is_reported_by_name(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def find_spec(name: str) -> object | None:
        return None if name == "gymnasium" else object()

    monkeypatch.setattr(demo, "find_spec", find_spec)
    assert main(["demo"]) == 2
    assert "the demo needs gymnasium, which is not installed" in capsys.readouterr().err


def test_summary_for_people_has_the_guarantees(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert outcome(monkeypatch, SUMMARY) == 0
    text = capsys.readouterr().out
    assert "25.0 times as much" in text
    assert "0 (must be 0)" in text
    assert "2 (at most 2)" in text


def test_groups_of_any_size_make_batches_of_about_64_episodes() -> None:
    assert DemoOptions(samples=1).batch_size == 64
    assert DemoOptions(samples=4).batch_size == 16
    assert DemoOptions(samples=200).batch_size == 1
    assert DemoOptions(samples=4, max_staleness=2).budget == 48
