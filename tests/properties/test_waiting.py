"""The mode `wait`: every schedule of a small world, and rules that a schedule breaks."""

from __future__ import annotations

from typing import Any

import pytest

from tests.properties.waiting import Search, always, any_room, bound_of_last_step, no_bound
from tests.properties.waiting_groups import GroupSearch

#: B, S, D.
SMALL = [(1, 0, 0), (2, 0, 0), (2, 0, 2), (1, 1, 1), (2, 1, 1), (3, 1, 1), (1, 1, 2), (2, 1, 2), (1, 2, 2), (1, 2, 3)]


@pytest.mark.parametrize(("batch", "staleness", "limit"), SMALL)
def test_nothing_that_was_started_becomes_too_old_and_nothing_stands_still(
    batch: int, staleness: int, limit: int
) -> None:
    for wanted in {1, batch, (staleness + 1) * batch}:
        assert Search(batch, staleness, limit, wanted=wanted, lag=limit).run() >= 5


@pytest.mark.parametrize(
    ("batch", "staleness", "limit", "wanted", "returns"),
    [(1, 1, 1, 1, 2), (2, 1, 1, 2, 1), (2, 1, 1, 1, 1), (1, 1, 1, 2, 2), (1, 1, 2, 2, 1), (1, 2, 2, 3, 1)],
)
def test_nor_after_a_recovery(batch: int, staleness: int, limit: int, wanted: int, returns: int) -> None:
    assert Search(batch, staleness, limit, wanted=wanted, lag=limit, returns=returns).run() > 50


@pytest.mark.parametrize(
    ("broken", "batch", "staleness", "limit"),
    [
        ({"room": any_room, "lag": 1}, 1, 1, 1),
        ({"bound": no_bound}, 1, 1, 1),
        ({"bound": bound_of_last_step}, 1, 2, 2),
        ({"unsealable": no_bound, "wanted": 1}, 2, 1, 1),
        ({"empty": no_bound}, 1, 1, 1),
        ({"fits": always, "wanted": 3, "lag": 2, "returns": 2}, 1, 2, 2),
    ],
)
def test_each_part_of_the_rule_is_needed(broken: dict[str, Any], batch: int, staleness: int, limit: int) -> None:
    with pytest.raises(AssertionError, match="too old"):
        Search(batch, staleness, limit, **broken).run()


@pytest.mark.parametrize(("batch", "staleness", "concurrency"), [(1, 1, 9), (1, 1, 1), (1, 2, 2), (1, 0, 9)])
def test_groups_go_on_with_workers_that_load_weights_only_when_told(
    batch: int, staleness: int, concurrency: int
) -> None:
    assert GroupSearch(batch, staleness, concurrency).run() > 50


def test_a_worker_is_told_of_open_slots_that_are_closed_to_it() -> None:
    with pytest.raises(AssertionError, match="nothing can go on"):
        GroupSearch(1, 1, 1, told_of_slots=False).run()


def test_open_slots_are_closed_to_older_weights() -> None:
    with pytest.raises(AssertionError, match="too old"):
        GroupSearch(1, 1, 9, closed=False).run()
