"""The benchmark's arithmetic: medians, multiples of the reference, goals, and what its documents say."""

import json

import pytest

from benchmarks import goals, peers, report, scenarios
from benchmarks.cases import Case, Outcome, Repetition, times_ref, unit_of
from benchmarks.quantiles import median, quantile


def outcome(scenario: str, who: str, name: str, values: list[dict[str, float]], refs: list[float]) -> Outcome:
    made = Outcome(Case(scenario, name, who, dict))
    made.repetitions = [Repetition(i, v, ref, 1.0) for i, (v, ref) in enumerate(zip(values, refs, strict=True))]
    return made


def rates(*given: float) -> list[dict[str, float]]:
    return [{"rate_per_s": rate} for rate in given]


def test_the_median_of_an_even_number_is_between_the_middle_two():
    assert median([4.0, 1.0, 3.0, 2.0]) == 2.5


def test_a_quantile_is_a_value_that_was_measured():
    assert quantile([float(i) for i in range(100)], 0.99) == 99.0
    assert quantile([7.0], 0.5) == 7.0


@pytest.mark.parametrize(
    ("metric", "unit"),
    [
        ("rate_per_s", "per_s"),
        ("read_mb_per_s", "mb_per_s"),
        ("start_p50_ms", "ms"),
        ("cycle_us", "us"),
        ("audit_s", "s"),
    ],
)
def test_the_unit_is_the_end_of_the_name(metric: str, unit: str):
    assert unit_of(metric) == unit


def test_a_name_without_unit_is_refused():
    with pytest.raises(ValueError, match="speed"):
        unit_of("speed")


def test_rates_are_multiples_of_the_reference_and_durations_are_in_its_pairs():
    repetition = Repetition(0, {}, ref_per_s=5000.0, ref_drift=1.0)
    assert times_ref("rate_per_s", 10_000.0, repetition) == 2.0
    assert times_ref("cycle_ms", 2.0, repetition) == 10.0
    assert times_ref("size_bytes", 2.0, repetition) is None


def test_a_goal_compares_values_of_the_same_round():
    # Given a machine that is twice as fast in the second round
    plain = outcome("cycle", "ours", "batches of 64", rates(1000, 2000), [500, 1000])
    aof = outcome("cycle", "ours", "batches of 64, AOF everysec", rates(900, 1800), [500, 1000])
    # When the goals are judged
    found = {goal["goal"]: goal for goal in goals.judged([plain, aof])}
    # Then its speed is not in the ratio
    assert found["AOF everysec"]["median"] == pytest.approx(0.9)
    assert found["AOF everysec"]["reached"]
    assert found["full cycle, batches of 64"]["median"] == pytest.approx(2.0)
    assert not found["full cycle, batches of 64"]["reached"]


def test_ours_is_held_against_the_best_peer():
    ours = outcome("cycle", "ours", "loop", rates(300), [100])
    slow = outcome("cycle", "rq", "a worker process", rates(5), [100])
    fast = outcome("cycle", "huey", "a worker process", rates(50), [50])
    (found,) = [goal for goal in goals.judged([ours, slow, fast]) if "best peer" in goal["goal"]]
    assert "huey" in found["goal"]
    assert found["median"] == pytest.approx(6.0)


def test_every_goal_names_a_scenario_that_exists():
    for goal in goals.GOALS:
        for place in (goal.of, goal.to):
            assert place is None or place[0] in scenarios.NAMES


def test_the_document_is_json_and_has_what_was_not_run():
    failed = Outcome(Case("cycle", "a worker process", "rq", dict), not_run="could not be installed")
    told = json.loads(
        json.dumps(report.document([outcome("cycle", "ours", "loop", rates(3, 1, 2), [1, 1, 1]), failed], {}))
    )
    assert told["cases"][0]["metrics"]["rate_per_s"]["x_ref"] == {"median": 2.0, "min": 1.0, "max": 3.0}
    assert told["cases"][1]["not_run"] == "could not be installed"
    assert "not run: cycle/rq/a worker process: could not be installed" in report.table([failed])


@pytest.mark.parametrize("name", peers.NAMES)
def test_every_peer_says_what_it_needs(name: str):
    assert peers.needs(name)
