"""A training that starts over, or goes back, under the name of a dead one: every schedule, and rules that a schedule breaks."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import product
from typing import Any

import pytest

from tests.properties.lives import (
    OneTraining,
    Search,
    anyone_may,
    begin_after_zero_only,
    begin_at_zero_only,
    begin_with_all,
)
from tests.properties.shares import UNSAID


def deaths(ranks: int, held: int) -> Iterable[Sequence[tuple[int, int]]]:
    """What each dead rank had accepted and running: at most so many rollouts together."""
    each = [(accepted, running) for accepted in range(held + 1) for running in range(held + 1 - accepted)]
    return (had for had in product(each, repeat=ranks) if sum(map(sum, had)) <= held)


@pytest.mark.parametrize("version", [0, 1, 4])
@pytest.mark.parametrize("staleness", [0, 1, 2])
@pytest.mark.parametrize("given", [1, 2, UNSAID])
def test_a_process_that_starts_over_trains_on_within_the_bound(given: int, staleness: int, version: int) -> None:
    batch = 1 if given == UNSAID else given
    for had in deaths(1, (staleness + 1) * batch):
        for tells in (True, False):
            Search([given], staleness, version, had, tells=tells).run()
            if version:
                Search([given], staleness, version, had, hangs=True, tells=tells).run()


@pytest.mark.parametrize("back_to", [1, 3])
@pytest.mark.parametrize("staleness", [0, 1, 2])
@pytest.mark.parametrize("given", [1, 2, UNSAID])
def test_a_process_that_goes_back_and_announces_nothing_trains_on_within_the_bound(
    given: int, staleness: int, back_to: int
) -> None:
    batch = 1 if given == UNSAID else given
    for had in deaths(1, (staleness + 1) * batch):
        Search([given], staleness, 4, had, back_to=back_to, hangs=True).run()


@pytest.mark.parametrize("had", [((0, 0), (0, 0)), ((2, 1), (0, 1))])
@pytest.mark.parametrize("version", [0, 1, 2])
@pytest.mark.parametrize("given", [1, UNSAID])
def test_ranks_that_start_over_train_on_within_the_bound(
    given: int, version: int, had: Sequence[tuple[int, int]]
) -> None:
    Search([given, given], 1, version, had, steps=2).run()
    if version == 2:
        Search([given, given], 1, version, had, steps=2, back_to=1).run()
    if version and given != UNSAID:
        Search([given, given], 1, version, had, steps=2, hangs=True).run()


@pytest.mark.parametrize(("owners", "staleness", "batch"), [(2, 0, 1), (2, 0, 2), (2, 1, 2), (2, 2, 1), (3, 1, 1)])
def test_what_an_owner_accepted_counts_when_it_closes_before_the_next_has_reported(
    owners: int, staleness: int, batch: int
) -> None:
    OneTraining(owners, staleness, batch=batch).run()


def test_who_joins_has_to_say_its_version() -> None:
    with pytest.raises(AssertionError, match="above the bound"):
        OneTraining(2, 0, tells=False).run()


@pytest.mark.parametrize(
    ("broken", "staleness", "version"),
    [
        ({"begins": begin_at_zero_only}, 1, 2),
        ({"begins": begin_with_all}, 0, 1),
        ({"begins": begin_after_zero_only, "back_to": 1}, 0, 2),
        ({"adopts": anyone_may, "hangs": True}, 0, 1),
    ],
)
def test_each_part_of_the_rule_is_needed(broken: dict[str, Any], staleness: int, version: int) -> None:
    with pytest.raises(AssertionError, match="no step can be trained any more"):
        Search([1], staleness, version, [(0, 0)], **broken).run()
