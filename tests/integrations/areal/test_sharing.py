"""Processes that share a run never exceed its bound, and a dead process's rollouts no longer count."""

from __future__ import annotations

import threading
from dataclasses import asdict
from typing import Any

import pytest

from broker.integrations.areal import RolloutStat, StalenessManager
from broker.operator import Operator
from tests.integrations.areal.conftest import Make, Provider
from tests.integrations.areal.crew import Process, processes
from tests.integrations.areal.waiting_dispatcher import Dispatcher
from tests.threads import InThread
from tests.waiting import wait_until

LEASE_S = 1.0


def start(manager: StalenessManager, n: int = 1) -> None:
    for _ in range(n):
        manager.on_rollout_enqueued()
        manager.on_rollout_submitted()


@pytest.mark.parametrize("numbers", [(7, 1000, 1), (1000, 3, 1), (1, 1, 0), (50, 20, 1)])
def test_processes_that_check_and_act_at_once_never_overshoot(
    children: list[Process], areal_url: str, run: str, numbers: tuple[int, int, int]
) -> None:
    bound = min(numbers[0], 2 * numbers[1] if numbers[2] else numbers[1])
    for child in children:
        child.do("new", run, 0, numbers, {"url": areal_url, "run": run})
    started = 0
    while started < bound:  # a slot that is promised to one when the others ask may be left over
        for child in children:
            child.begin("start_while_capacity", run, bound)
        started += sum(child.hear() for child in children)
        assert started <= bound
    assert [child.call(run, "get_capacity") for child in children] == [0, 0, 0]
    assert children[0].call(run, "get_stats")["running"] == bound
    for child in children:
        child.do("close", run)


def test_a_promised_slot_is_not_promised_to_others(make: Make) -> None:
    one, other = make(Provider(), 1, 4, 2), make(Provider(), 1, 4, 2)
    assert one.get_capacity() == 1
    assert other.get_capacity() == 0
    assert one.get_capacity() == 1  # asking again promises nothing more
    start(one)
    assert (one.get_capacity(), other.get_capacity()) == (0, 0)


def test_the_answer_is_the_capacity_of_the_run_as_long_as_a_slot_can_be_promised(make: Make) -> None:
    one, other = make(Provider(), 3, 4, 2), make(Provider(), 3, 4, 2)
    assert [manager.get_capacity() for manager in (one, other, one, other)] == [3, 3, 3, 3]


def test_a_slot_that_was_used_is_not_promised_any_more(make: Make) -> None:
    one, other = make(Provider(), 2, 4, 2), make(Provider(), 2, 4, 2)
    assert one.get_capacity() == 2
    start(one)
    assert one.flush()
    assert other.get_capacity() == 1


def test_threads_of_a_process_do_not_share_a_promise(make: Make) -> None:
    manager = make(Provider(), 1, 4, 2)
    assert manager.get_capacity() == 1
    assert InThread(manager.get_capacity).result() == 0


def test_an_unused_promise_lapses(make: Make) -> None:
    one, other = make(Provider(), 1, 4, 2), make(Provider(), 1, 4, 2)
    assert one.get_capacity() == 1
    wait_until(lambda: other.get_capacity() == 1, "the promise has lapsed")


def test_a_dispatcher_with_nothing_to_start_keeps_no_slot_from_others(make: Make) -> None:
    one, other, dispatcher = make(Provider(), 1, 4, 2), make(Provider(), 1, 4, 2), Dispatcher()
    one.attach(dispatcher)
    assert (one.get_capacity(), other.get_capacity()) == (1, 1)
    assert one.get_capacity() == 1
    one.on_rollout_enqueued()
    assert one.get_capacity() == 0  # promised to the other


def test_an_owner_that_closes_gives_back_what_it_had_and_what_was_accepted_stays(make: Make) -> None:
    one, other = make(Provider(), 10, 4, 2), make(Provider(), 10, 4, 2)
    start(one, 5)
    one.on_rollout_enqueued()
    one.on_rollout_accepted()
    one.on_rollout_rejected()
    one.close()
    assert other.get_stats() == RolloutStat(accepted=1, rejected=1)


@pytest.mark.processes
def test_a_killed_process_gives_running_and_enqueued_back_after_its_lease(areal_url: str, run: str, make: Make) -> None:
    manager = make(Provider(), 10, 4, 2, lease_s=LEASE_S)
    with processes(1) as (doomed,):
        doomed.do("new", "m", 0, [10, 4, 2], {"url": areal_url, "run": run, "lease_s": LEASE_S})
        doomed.call("m", "on_rollout_enqueued", times=9)
        doomed.call("m", "on_rollout_submitted", times=7)
        doomed.call("m", "on_rollout_accepted", times=2)
        assert doomed.call("m", "flush")
        assert manager.get_stats() == RolloutStat(accepted=2, enqueued=2, running=5)
        doomed.kill()
        assert manager.get_stats().running == 5  # for as long as it may only be slow
        wait_until(lambda: manager.get_stats() == RolloutStat(accepted=2), "its lease has run out")
        assert manager.get_capacity() == 10


@pytest.mark.processes
def test_a_process_that_slept_past_its_lease_counts_again_and_nothing_counts_twice(
    areal_url: str, run: str, make: Make
) -> None:
    manager = make(Provider(), 10, 4, 2, lease_s=LEASE_S)
    with processes(1) as (sleeper,):
        sleeper.do("new", "m", 0, [10, 4, 2], {"url": areal_url, "run": run, "lease_s": LEASE_S})
        sleeper.call("m", "on_rollout_enqueued", times=5)
        sleeper.call("m", "on_rollout_submitted", times=4)
        sleeper.call("m", "on_rollout_accepted")
        assert sleeper.call("m", "flush")
        sleeper.freeze()
        wait_until(lambda: manager.get_stats() == RolloutStat(accepted=1), "its lease has run out")
        sleeper.thaw()
        alive = RolloutStat(accepted=1, enqueued=1, running=3)
        wait_until(lambda: manager.get_stats() == alive, "it counts again")
        sleeper.call("m", "on_rollout_accepted", times=2)
        sleeper.call("m", "on_rollout_rejected")
        assert sleeper.call("m", "get_stats") == asdict(RolloutStat(accepted=3, enqueued=1, rejected=1))
        sleeper.do("close", "m")
        assert manager.get_stats() == RolloutStat(accepted=3, rejected=1)


def woken(manager: StalenessManager, free: Any) -> bool:
    """Whether a dispatcher that waits for capacity is woken by `free()`."""
    dispatcher, at_work = Dispatcher(), threading.Event()
    manager.attach(dispatcher)
    manager.on_rollout_enqueued()
    answers: list[int] = []

    def work() -> None:
        with dispatcher.condition:
            while (capacity := manager.get_capacity()) <= 0:
                at_work.set()
                dispatcher.condition.wait()  # without a time-out, as AReaL's
            answers.append(capacity)

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    assert at_work.wait(10)
    with dispatcher.condition:  # it waits
        pass
    free()
    thread.join(timeout=3)  # the heartbeat would wake it after 5 s
    return answers != []


def test_capacity_that_another_process_frees_wakes_the_dispatcher(make: Make) -> None:
    one, other = make(Provider(), 1, 4, 2), make(Provider(), 1, 4, 2)
    start(other)
    assert other.flush()
    assert woken(one, other.on_rollout_rejected)


def test_a_process_that_ends_wakes_the_dispatcher(make: Make) -> None:
    one, other = make(Provider(), 1, 4, 2), make(Provider(), 1, 4, 2)
    start(other)
    assert other.flush()
    assert woken(one, other.close)


def test_a_promise_that_lapses_wakes_the_dispatcher(make: Make) -> None:
    one, other = make(Provider(), 1, 4, 2), make(Provider(), 1, 4, 2)
    assert other.get_capacity() == 1
    assert woken(one, lambda: None)


def test_a_new_version_wakes_the_dispatcher(make: Make) -> None:
    provider = Provider()
    manager = make(provider, 100, 1, 0)
    start(manager)
    manager.on_rollout_accepted()
    assert woken(manager, lambda: setattr(provider, "version", 1))


def test_a_new_version_wakes_a_dispatcher_even_if_it_was_not_refused(make: Make) -> None:
    provider, dispatcher = Provider(), Dispatcher()
    manager = make(provider, 100, 1, 0)
    manager.attach(dispatcher)
    assert manager.flush()
    before = dispatcher.condition.rings
    provider.version = 1
    wait_until(lambda: dispatcher.condition.rings > before, "it is woken")


def test_a_new_version_known_to_another_process_wakes_the_dispatcher(make: Make) -> None:
    behind, ahead = Provider(), Provider()
    one, other = make(behind, 100, 1, 0), make(ahead, 100, 1, 0)
    start(other)
    other.on_rollout_accepted()
    assert other.flush()
    assert woken(one, lambda: setattr(ahead, "version", 1))


def test_a_run_that_is_paused_has_no_capacity_and_resuming_it_wakes_the_dispatcher(
    areal_url: str, run: str, make: Make
) -> None:
    manager = make(Provider(), 5, 4, 2)
    with Operator(areal_url) as operator:
        operator.pause(run)
        assert manager.get_capacity() == 0
        assert woken(manager, lambda: operator.resume(run))


def test_only_a_dispatcher_can_be_attached(make: Make) -> None:
    manager = make(Provider(), 5, 4, 2)
    with pytest.raises(ValueError):
        manager.attach(object())


def test_people_see_the_run(areal_url: str, run: str, make: Make) -> None:
    manager = make(Provider(3), 10, 4, 2, owner="rank0")
    start(manager, 2)
    manager.on_rollout_rejected()
    assert manager.flush()
    with Operator(areal_url) as operator:
        assert run in operator.runs()
        stats = operator.stats(run)
        assert (stats.version, stats.running, stats.capacity, stats.accepted) == (3, 1, 9, 0)
        assert stats.totals["rejected"] == 1
        kinds = [kind for event in operator.events(run) for kind, _ in event.transitions]
        assert kinds == ["open", "join", "advance"]
