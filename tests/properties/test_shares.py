"""Ranks that share one bound: every schedule of a small world, and rules that a schedule breaks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from tests.properties.shares import (
    UNSAID,
    Search,
    room_by_formula,
    room_of_both_terms,
    room_without_lag,
    room_without_the_absent,
    shares,
)


@pytest.mark.parametrize("staleness", [0, 1, 2])
@pytest.mark.parametrize("given", [(1, 1), (2, 1), (1, 1, 1)])
@pytest.mark.parametrize("concurrency", [1, 2, 99])
def test_ranks_train_on_whatever_the_schedule_and_never_exceed_the_bound(
    given: Sequence[int], staleness: int, concurrency: int
) -> None:
    search = Search(given, staleness, concurrency, all_there=len(given) * staleness > 4)
    assert search.run() > 10


def test_reports_that_come_late_harm_nothing() -> None:
    Search((1, 1), 0, untold=True, all_there=True).run()


@pytest.mark.parametrize(("given", "staleness"), [((1, 1), 0), ((1, 1), 1), ((2, 1), 0), ((1, 1, 1), 0)])
@pytest.mark.parametrize("fault", [{"deaths": 1}, {"recoveries": 1}, {"deaths": 1, "recoveries": 1}])
def test_deaths_and_recoveries_harm_nothing(given: Sequence[int], staleness: int, fault: dict[str, int]) -> None:
    Search(given, staleness, all_there=True, **fault).run()


@pytest.mark.parametrize(
    ("broken", "given", "staleness", "concurrency"),
    [
        ({"rule": room_by_formula}, (1, 1), 0, 99),
        ({"rule": room_by_formula}, (1, 1), 1, 99),
        ({"rule": room_by_formula}, (2, 1), 2, 99),
        ({"rule": room_of_both_terms}, (1, 1), 1, 1),
        ({"rule": room_without_the_absent}, (1, 1), 0, 99),
        ({"rule": room_without_lag, "untold": True}, (1, 1), 0, 99),
        ({"loses": False, "deaths": 1}, (1, 1), 0, 99),
    ],
)
def test_each_part_of_the_rule_is_needed(
    broken: dict[str, Any], given: Sequence[int], staleness: int, concurrency: int
) -> None:
    with pytest.raises(AssertionError, match="no step can be trained any more"):
        Search(given, staleness, concurrency, **broken).run()


@pytest.mark.parametrize(
    ("batch", "given", "expected"),
    [
        (8, [UNSAID], [8]),
        (8, [UNSAID] * 3, [3, 3, 2]),
        (2, [UNSAID] * 3, [1, 1, 0]),
        (8, [UNSAID, 5, UNSAID], [2, 5, 1]),
        (8, [4, 4, 4], [4, 4, 0]),
        (8, [0, UNSAID, 0], [0, 8, 0]),
    ],
)
def test_what_nobody_said_is_split(batch: int, given: list[int], expected: list[int]) -> None:
    assert shares(batch, given) == expected
