"""The surface and arithmetic of AReaL's class, in one process and with the calls spread over three."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from broker.errors import BadArgument, ConfigMismatch
from broker.integrations.areal import RolloutStat
from tests.integrations.areal.conftest import Make, Provider
from tests.integrations.areal.crew import AnyManager
from tests.threads import in_threads

ManagerOf = Callable[..., AnyManager]


def start(manager: AnyManager, n: int = 1) -> None:
    for _ in range(n):
        manager.on_rollout_enqueued()
        manager.on_rollout_submitted()


def finish(manager: AnyManager, accepted: int, rejected: int = 0) -> None:
    for _ in range(accepted):
        manager.on_rollout_accepted()
    for _ in range(rejected):
        manager.on_rollout_rejected()


@pytest.mark.parametrize(
    ("numbers", "version", "capacity"),
    [
        ((10, 4, 2), 0, 10),  # bounded by concurrency
        ((100, 4, 2), 0, 12),  # by staleness: (2 + 0 + 1) * 4
        ((100, 4, 2), 7, 40),
        ((100, 8, 0), 0, 8),
        ((10, 1, 2), 0, 3),
        ((0, 0, 0), 0, 1),  # both count as 1
        ((-5, -5, 0), 3, 1),
        ((10_000, 64, 10), 1_000_000, 10_000),
    ],
)
def test_the_capacity_of_a_new_run_follows_the_formula(
    manager_of: ManagerOf, numbers: tuple[int, ...], version: int, capacity: int
) -> None:
    manager = manager_of(Provider(version), *numbers)
    assert manager.get_capacity() == capacity
    given = (manager.max_concurrent_rollouts, manager.consumer_batch_size, manager.max_staleness)
    assert given == numbers
    assert manager.get_pending_limit() == (numbers[2] + 1) * numbers[1]


@pytest.mark.parametrize(
    ("started", "accepted", "rejected", "capacity"),
    [(3, 0, 0, 7), (10, 0, 0, 0), (13, 0, 0, -3), (5, 5, 0, 7), (5, 0, 5, 10), (9, 4, 2, 5), (10, 10, 0, 2)],
)
def test_running_and_accepted_rollouts_take_capacity_and_rejected_ones_give_it_back(
    manager_of: ManagerOf, started: int, accepted: int, rejected: int, capacity: int
) -> None:
    manager = manager_of(Provider(), 10, 4, 2)
    start(manager, started)
    finish(manager, accepted, rejected)
    assert manager.get_capacity() == capacity
    assert manager.get_stats() == RolloutStat(accepted, 0, rejected, started - accepted - rejected)


def test_enqueued_rollouts_are_counted_and_take_none(manager_of: ManagerOf) -> None:
    manager = manager_of(Provider(), 10, 4, 2)
    for _ in range(6):
        manager.on_rollout_enqueued()
    manager.on_rollout_submitted()
    assert manager.get_stats() == RolloutStat(enqueued=5, running=1)
    assert manager.get_capacity() == 9


def test_a_new_version_raises_capacity(manager_of: ManagerOf) -> None:
    provider = Provider()
    manager = manager_of(provider, 1000, 4, 2)
    before = manager.get_capacity()
    provider.version = 5
    assert (before, manager.get_capacity()) == (12, 32)


def test_code_that_reads_areals_attributes_finds_them(make: Make) -> None:
    manager = make(Provider(), 10, 4, 2)
    start(manager, 2)
    with manager.lock:
        assert manager.rollout_stat == RolloutStat(running=2)
        assert manager.get_capacity() == 8


def test_counters_are_not_clamped(manager_of: ManagerOf) -> None:
    manager = manager_of(Provider(), 10, 4, 2)
    manager.on_rollout_accepted()
    assert manager.get_stats() == RolloutStat(accepted=1, running=-1)
    manager.on_rollout_enqueued()
    manager.on_rollout_submitted()
    assert manager.get_stats() == RolloutStat(accepted=1)


@pytest.mark.parametrize("running", [0, 1, 16])
@pytest.mark.parametrize("version", [0, 5, 268])
def test_a_recovery_sets_accepted_and_leaves_running(manager_of: ManagerOf, version: int, running: int) -> None:
    provider = Provider()
    manager = manager_of(provider, 1000, 16, 2)
    start(manager, running)
    provider.version = version
    manager.on_version_recovered(version)
    assert manager.get_stats() == RolloutStat(accepted=version * 16, running=running)
    assert manager.get_capacity() == (2 + 1) * 16 - running


def test_a_recovery_counts_with_a_batch_size_of_at_least_one(manager_of: ManagerOf) -> None:
    manager = manager_of(Provider(7), 1000, 0, 2)
    manager.on_version_recovered(7)
    assert manager.get_stats().accepted == 7


def test_what_is_accepted_after_the_announcement_of_a_recovery_counts_on_top(make: Make) -> None:
    manager = make(Provider(), 10, 4, 2)
    start(manager, 3)
    finish(manager, 1)
    manager.on_version_recovered(5)
    finish(manager, 2)
    assert manager.get_stats() == RolloutStat(accepted=22)


def test_hooks_from_many_threads_are_all_counted(manager_of: ManagerOf) -> None:
    manager = manager_of(Provider(), 1000, 32, 10)

    def work() -> None:
        for _ in range(50):
            start(manager)
        finish(manager, 20, 10)

    in_threads(*[work] * 6)
    assert manager.get_stats() == RolloutStat(accepted=120, rejected=60, running=120)


def test_questions_from_many_threads_all_get_the_same_answer(make: Make) -> None:
    manager = make(Provider(), 100, 32, 10)
    answers = in_threads(*[lambda: {manager.get_capacity() for _ in range(50)}] * 5)
    assert answers == [{100}] * 5


def test_other_numbers_than_the_stored_ones_are_refused_unless_told_to_update(make: Make) -> None:
    make(Provider(), 10, 4, 2)
    with pytest.raises(ConfigMismatch) as refused:
        make(Provider(), 11, 4, 2)
    assert refused.value.fields == {"field": "max_concurrent_rollouts", "stored": "10", "given": "11"}
    assert make(Provider(), 11, 4, 2, update=True).get_capacity() == 11


@pytest.mark.parametrize("settings", [{"lease_s": 0}, {"run": "a b"}, {"owner": ""}, {"max_staleness": -1}])
def test_arguments_out_of_range_are_refused(make: Make, settings: dict[str, Any]) -> None:
    staleness = settings.pop("max_staleness", 2)
    with pytest.raises(ValueError):
        make(Provider(), 10, 4, staleness, **settings)


def test_a_negative_recovered_version_is_refused(make: Make) -> None:
    with pytest.raises(BadArgument):
        make(Provider(), 10, 4, 2).on_version_recovered(-1)
