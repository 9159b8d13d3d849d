"""A server that is away, lost or slow: hooks neither raise nor block, and everything counts once."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import time
from collections.abc import Generator

import pytest

from broker.errors import BadArgument
from broker.integrations.areal import RolloutStat, StalenessManager
from tests.held_locks import all_locks_held
from tests.integrations.areal.conftest import Provider
from tests.integrations.areal.waiting_dispatcher import Dispatcher
from tests.lossy_proxy import LossyProxy
from tests.servers import ServerUnderTest, real_kinds
from tests.waiting import wait_until

#: What waits for a server that does not answer takes at least this long, in seconds: the client's own limit.
WAITING_S = 2.0


@pytest.fixture
def server() -> Generator[ServerUnderTest]:
    with ServerUnderTest(real_kinds()[0], durable=True) as made:
        yield made


@pytest.fixture
def forgetful() -> Generator[ServerUnderTest]:
    with ServerUnderTest(real_kinds()[0]) as made:
        yield made


def manager_on(url: str, version: int = 0) -> StalenessManager:
    return StalenessManager(Provider(version), 10, 4, 2, url=url, run="areal")


def live(manager: StalenessManager, n: int) -> None:
    """So many rollouts from start to end, and one more that runs."""
    for i in range(n):
        manager.on_rollout_enqueued()
        manager.on_rollout_submitted()
        if i % 2:
            manager.on_rollout_accepted()
        else:
            manager.on_rollout_rejected()
    manager.on_rollout_enqueued()
    manager.on_rollout_submitted()


def test_what_happens_while_the_server_is_away_counts_once_when_it_is_back(
    server: ServerUnderTest, caplog: pytest.LogCaptureFixture
) -> None:
    with manager_on(server.url) as manager, manager_on(server.url) as other:
        live(manager, 2)
        assert manager.flush()
        server.kill()
        live(manager, 6)
        manager.on_version_recovered(3)
        live(manager, 2)
        assert manager.get_capacity() <= 0
        assert manager.get_stats() == RolloutStat(accepted=5, rejected=5, running=3)
        assert manager.unreported > 0
        server.start()
        wait_until(lambda: not manager.unreported, "all is reported")
        expected = RolloutStat(accepted=3 * 4 + 1, rejected=5, running=3)
        wait_until(lambda: other.get_stats() == expected, "the other process sees it")
        assert manager.get_stats() == expected
        warnings = [record for record in caplog.records if "capacity counts as 0" in record.getMessage()]
        assert len(warnings) <= 2  # one for each manager, not one for each hook
        assert any("is counted again" in record.getMessage() for record in caplog.records)


def test_the_dispatcher_is_woken_when_the_server_is_back(server: ServerUnderTest) -> None:
    dispatcher = Dispatcher()
    with manager_on(server.url) as manager:
        manager.attach(dispatcher)
        manager.on_rollout_enqueued()
        server.kill()
        wait_until(lambda: manager.get_capacity() <= 0, "the server is missed")
        before = dispatcher.condition.rings
        server.start()
        wait_until(lambda: dispatcher.condition.rings > before, "the dispatcher is woken")
        wait_until(lambda: manager.get_capacity() == 10, "there is capacity again")


def test_a_server_that_lost_the_run_gets_it_back_with_a_bounded_capacity(forgetful: ServerUnderTest) -> None:
    with manager_on(forgetful.url, version=268) as manager, manager_on(forgetful.url, version=268) as other:
        manager.on_version_recovered(268)
        for each in (manager, other):
            live(each, 4)
            assert each.flush()
        forgetful.restart()
        wait_until(lambda: manager.flush() and other.flush(), "both joined anew")
        wait_until(lambda: manager.get_stats().running == 2, "what runs is counted on")
        assert manager.get_stats().accepted == 268 * 4
        assert manager.get_capacity() == other.get_capacity() == 8


def test_a_forked_child_may_not_ask_under_its_parents_name(server: ServerUnderTest) -> None:
    """It would tell what it counted with the parent's numbers; its hooks neither raise nor tell anything."""
    with manager_on(server.url) as manager:
        before = manager.get_capacity()
        if not (child := os.fork()):
            signal.alarm(30)
            status = 1
            try:
                manager.on_rollout_enqueued()
                for ask in (manager.get_capacity, manager.get_stats, manager.flush):
                    with pytest.raises(BadArgument, match="was made before a fork"):
                        ask()
                manager.close()
                status = 0
            finally:
                os._exit(status)
        assert os.waitpid(child, 0)[1] == 0
        assert manager.flush()
        assert manager.get_stats() == RolloutStat(0, 0, 0, 0)
        assert manager.get_capacity() == before


def test_a_forked_child_waits_for_no_lock_that_a_thread_of_its_parent_holds(server: ServerUnderTest) -> None:
    """Hooks never block, and a refusal comes at once."""
    with manager_on(server.url) as manager, all_locks_held() as held:
        if not (child := os.fork()):
            signal.alarm(20)
            status = 1
            try:
                assert held > 5
                live(manager, 2)
                manager.on_version_recovered(3)
                assert manager.unreported == 9
                for ask in (manager.get_capacity, manager.get_stats, manager.flush, lambda: manager.attach(manager)):
                    with pytest.raises(BadArgument, match="was made before a fork"):
                        ask()
                manager.close()
                status = 0
            finally:
                os._exit(status)
        assert os.waitpid(child, 0)[1] == 0


def test_lost_replies_count_nothing_twice(server: ServerUnderTest) -> None:
    # The other manager has the scripts loaded: the proxy passes on small requests only.
    with (
        LossyProxy(server.port, b":state") as proxy,
        manager_on(server.url) as other,
        manager_on(proxy.url) as manager,
    ):
        for i in range(30):
            proxy.lose_replies = i % 3
            live(manager, 2)
            manager.get_capacity()
            wait_until(manager.flush, "it is reported")
        assert proxy.requests > 60
        assert manager.get_stats() == other.get_stats() == RolloutStat(accepted=30, rejected=30, running=30)


def test_hooks_do_not_wait_for_a_server_that_does_not_answer(server: ServerUnderTest) -> None:
    with manager_on(server.url) as manager:
        server.freeze()
        try:
            began = time.perf_counter()
            live(manager, 1000)
            assert time.perf_counter() - began < WAITING_S
        finally:
            server.thaw()
        wait_until(manager.flush, "it answers")
        assert manager.get_stats() == RolloutStat(accepted=500, rejected=500, running=1)


def test_on_an_event_loop_neither_hooks_nor_stats_wait(server: ServerUnderTest) -> None:
    with manager_on(server.url) as manager:

        async def rollouts() -> RolloutStat:
            live(manager, 10)
            return manager.get_stats()

        server.freeze()
        try:
            began = time.perf_counter()
            assert asyncio.run(rollouts()) == RolloutStat(accepted=5, rejected=5, running=1)
            assert time.perf_counter() - began < WAITING_S
        finally:
            server.thaw()


def test_a_dispatcher_holds_its_lock_for_a_moment_only_while_the_server_does_not_answer(
    server: ServerUnderTest,
) -> None:
    dispatcher = Dispatcher()
    with manager_on(server.url) as manager, StalenessManager(Provider(), 10, 4, 2, url=server.url, run="areal"):
        manager.attach(dispatcher)
        live(manager, 1)
        manager.on_rollout_enqueued()
        assert manager.get_capacity() > 0
        server.freeze()
        try:
            began = time.perf_counter()
            with dispatcher.condition:
                assert manager.get_capacity() <= 0
                assert manager.get_stats().running == 1
            assert time.perf_counter() - began < WAITING_S / 2
            before = dispatcher.condition.rings
        finally:
            server.thaw()
        wait_until(lambda: dispatcher.condition.rings > before, "the dispatcher is woken")
        wait_until(lambda: manager.get_capacity() > 0, "there is capacity again")


def test_a_promise_that_came_too_late_is_used_by_who_asked_for_it(server: ServerUnderTest) -> None:
    dispatcher = Dispatcher()
    with (
        StalenessManager(Provider(), 1, 4, 2, url=server.url, run="areal") as manager,
        StalenessManager(Provider(), 1, 4, 2, url=server.url, run="areal") as other,
    ):
        manager.attach(dispatcher)
        manager.on_rollout_enqueued()
        assert manager.flush()
        server.freeze()
        try:
            assert manager.get_capacity() <= 0
        finally:
            server.thaw()
        wait_until(lambda: dispatcher.condition.rings > 0, "the dispatcher is woken")
        wait_until(lambda: manager.get_capacity() == 1, "it has its slot")
        assert other.get_capacity() == 0


def test_closing_while_the_server_is_away_says_so_and_ends(
    server: ServerUnderTest, caplog: pytest.LogCaptureFixture
) -> None:
    manager = manager_on(server.url)
    server.kill()
    with caplog.at_level(logging.WARNING, "broker"):
        manager.close()
    assert any("given back only when its lease runs out" in record.getMessage() for record in caplog.records)


def test_a_version_provider_that_fails_costs_no_report(
    server: ServerUnderTest, caplog: pytest.LogCaptureFixture
) -> None:
    class Failing(Provider):
        def get_version(self) -> int:
            if self.version < 0:
                raise RuntimeError("the engine restarts")
            return self.version

    provider = Failing()
    with StalenessManager(provider, 10, 4, 2, url=server.url, run="areal") as manager:
        provider.version = -1
        live(manager, 2)
        wait_until(lambda: not manager.unreported, "all is reported")
        with pytest.raises(RuntimeError):  # as AReaL's
            manager.get_capacity()
        provider.version = 0
    assert any("the engine restarts" in record.getMessage() for record in caplog.records)
