"""A worker hears at once that the server took an attempt back, however long its lease is."""

import threading
import time
from collections.abc import Callable, Generator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, ExitStack, contextmanager
from typing import Any

import pytest

from broker import Attempt, RunConfig, Trainer, Worker, aio
from broker.protocol import scripts
from broker.worker.heartbeat import Heartbeat
from tests.conformance.lab import Lab, tasks
from tests.lossy_proxy import LossyProxy
from tests.servers import ServerUnderTest, cluster, real_kinds, redis_kinds
from tests.threads import LoopThread
from tests.waiting import wait_until

#: So long that no renewal of the rhythm comes while a test runs, seconds.
LEASE_S = 900.0
Opened = Callable[..., AbstractContextManager[Any]]


class LoopWorker:
    """An asyncio worker on a loop in a thread of its own, as a synchronous one."""

    def __init__(self, *args: Any, **options: Any) -> None:
        self._thread = LoopThread()
        self._worker = aio.Worker(*args, **options)
        self._thread.do(self._worker.open())

    def claim(self, n: int = 1) -> list[Attempt]:
        return self._thread.do(self._worker.claim(n, 10.0))

    def close(self) -> None:
        self._thread.do(self._worker.close())
        self._thread.close()


@pytest.fixture(params=["sync", "aio"])
def opened(request: pytest.FixtureRequest) -> Opened:
    """Opens a worker of either client, whose heartbeat goes by itself."""

    @contextmanager
    def made(*args: Any, **options: Any) -> Generator[Any]:
        worker = (Worker if request.param == "sync" else LoopWorker)(*args, **options)
        try:
            yield worker
        finally:
            worker.close()

    return made


def config(**fields: Any) -> RunConfig:
    return RunConfig(consumer_batch_size=1, max_staleness=None, max_concurrent_rollouts=99, **fields)


def claimed(worker: Any, n: int) -> list[Attempt]:
    attempts: list[Attempt] = []
    while len(attempts) < n:
        attempts += worker.claim(n - len(attempts))
    return attempts


def until_heard(attempts: list[Attempt], reason: str) -> None:
    wait_until(lambda: all(attempt.cancelled for attempt in attempts), "the worker hears it")
    assert {attempt.cancel_reason for attempt in attempts} == {reason}


def test_a_cancel_is_heard_long_before_the_next_renewal(lab: Lab, opened: Opened):
    lab.go_live()
    with Trainer(lab.url, lab.run, config()) as trainer, opened(lab.url, lab.run, lease_s=LEASE_S) as worker:
        trainer.enqueue(tasks(4))
        first, *others = claimed(worker, 4)
        trainer.cancel([first.task])
        until_heard([first], "cancelled")
        trainer.cancel([attempt.task for attempt in others])  # and again: it goes on waiting
        until_heard(others, "cancelled")


def test_a_time_out_is_heard(lab: Lab, opened: Opened):
    lab.go_live()
    fields = config(attempt_timeout_ms=500)
    with Trainer(lab.url, lab.run, fields) as trainer, opened(lab.url, lab.run, lease_s=LEASE_S) as worker:
        trainer.enqueue(tasks(1))
        attempts = claimed(worker, 1)
        wait_until(trainer.requeue, "it is taken back")
        until_heard(attempts, "expired")


def test_what_another_sample_of_the_group_ends_is_heard(lab: Lab, opened: Opened):
    lab.go_live()
    with Trainer(lab.url, lab.run, config()) as trainer, opened(lab.url, lab.run, lease_s=LEASE_S) as worker:
        trainer.enqueue(tasks(1, samples=2))
        attempts = claimed(worker, 1)
        with Worker(lab.url, lab.run, heartbeat=False) as other:
            (failing,) = other.claim(1, 10.0)
            assert other.fail(failing, "no", retry=False).answer == "failed"
        until_heard(attempts, "revoked")


def test_a_task_that_another_call_finds_too_old_is_heard(lab: Lab, opened: Opened):
    lab.go_live()
    fields = RunConfig(consumer_batch_size=1, max_staleness=1, staleness_limit=1, max_concurrent_rollouts=9)
    with Trainer(lab.url, lab.run, fields) as trainer, opened(lab.url, lab.run, lease_s=LEASE_S) as worker:
        trainer.enqueue(tasks(1, samples=2))
        attempts = claimed(worker, 1)
        trainer.advance(allow_empty=True)
        trainer.advance(allow_empty=True)
        with Worker(lab.url, lab.run, heartbeat=False) as other:
            assert len(other.claim(2)) == 2  # of the task as it starts anew
            until_heard(attempts, "superseded")


def test_a_recovery_that_takes_back_what_is_in_flight_is_heard(lab: Lab, opened: Opened):
    lab.go_live()
    with Trainer(lab.url, lab.run, config()) as trainer, opened(lab.url, lab.run, lease_s=LEASE_S) as worker:
        trainer.enqueue(tasks(1))
        attempts = claimed(worker, 1)
        trainer.recover(version=0, in_flight="requeue")
        until_heard(attempts, "released")


def test_each_of_several_runs_is_heard(lab: Lab, opened: Opened):
    lab.go_live()
    names = [f"{lab.run}/{lane}" for lane in ("train", "eval")]
    lab.runs.update(names)
    with (
        Trainer(lab.url, names[0], config()) as train,
        Trainer(lab.url, names[1], config()) as evaluate,
        opened(lab.url, names, lease_s=LEASE_S) as worker,
    ):
        for trainer in (train, evaluate):
            trainer.enqueue(tasks(1))
        attempts = {attempt.run: attempt for attempt in claimed(worker, 2)}
        for trainer in (evaluate, train):
            trainer.cancel(["t0"])
            until_heard([attempts[trainer.run]], "cancelled")


def test_a_session_that_had_to_join_anew_is_heard(lab: Lab, opened: Opened):
    """The heartbeat waits for another marker from then on."""
    lab.go_live()
    with Trainer(lab.url, lab.run, config()) as trainer, opened(lab.url, lab.run, lease_s=LEASE_S) as worker:
        trainer.enqueue(tasks(1))
        lab.command("DEL", lab.key("sessions"), lab.key("leases"), lab.key("calls"))  # as a server does that lost them
        attempts = claimed(worker, 1)
        trainer.cancel(["t0"])
        until_heard(attempts, "cancelled")


def test_a_worker_whose_lease_passed_hears_it_from_whoever_takes_its_work(lab: Lab, opened: Opened):
    """The worker was frozen, or cut off, for longer than its lease: its work since then is in vain."""
    lab.go_live()
    with Trainer(lab.url, lab.run, config()) as trainer, opened(lab.url, lab.run, lease_s=LEASE_S) as worker:
        trainer.enqueue(tasks(1))
        attempts = claimed(worker, 1)
        (session,) = lab.command("ZRANGE", lab.key("sessions"), 0, -1)
        lab.command("ZADD", lab.key("sessions"), 1, session)
        lab.command("HSET", lab.key("state"), "due", 1)
        assert trainer.requeue() == 1
        until_heard(attempts, "expired")


def test_a_marker_is_kept_for_a_while_only(lab: Lab):
    """Nobody has to wait for it: clients of other releases do not, nor do those with short leases."""
    trainer, worker = lab.trainer(), lab.raw_worker()
    trainer.enqueue(tasks(1))
    attempt = worker.take_one()
    trainer.cancel(["t0"])
    marker = lab.key(f"revoked:{worker.session}")
    assert lab.command("ZRANGE", marker, 0, -1) == [b"1"]
    assert 0 < lab.command("PTTL", marker) <= 60_000
    assert worker.renew(attempt).abandon == {attempt: "cancelled"}


def test_what_a_worker_ends_itself_wakes_no_heartbeat(lab: Lab):
    trainer, worker = lab.trainer(max_staleness=None, max_concurrent_rollouts=9), lab.worker()
    trainer.enqueue(tasks(5))
    submitted, failed, rejected, released, _ = worker.claim(5)
    worker.submit(submitted, b"x")
    worker.fail(failed, "no")
    worker.reject(rejected)
    worker.release(released)
    worker.renew()
    worker.close()
    assert not [name for name in lab.dump() if name.startswith("revoked:")]


@pytest.fixture(params=real_kinds(), ids=str)
def server(request: pytest.FixtureRequest) -> Generator[ServerUnderTest]:
    with ServerUnderTest(request.param) as started:
        yield started


def test_a_marker_that_was_lost_with_its_connection_is_made_up_for(server: ServerUnderTest, opened: Opened):
    with (
        LossyProxy(server.port, b"BZPOPMIN") as proxy,
        Trainer(server.url, "r", config()) as trainer,
        opened(proxy.url, "r", lease_s=LEASE_S) as worker,
    ):
        trainer.enqueue(tasks(2))
        first, second = claimed(worker, 2)
        wait_until(lambda: b"blocked_clients:1" in server.command("INFO", "clients"), "the heartbeat waits")
        proxy.lose_replies = 1
        trainer.cancel([first.task])
        until_heard([first], "cancelled")
        assert proxy.lose_replies == 0
        trainer.cancel([second.task])  # it waits on another connection
        until_heard([second], "cancelled")


def test_what_was_just_claimed_is_heard_of_too(server: ServerUnderTest, opened: Opened):
    """The claim's answer is on its way when the marker comes: the first renewal does not know what it granted."""
    if str(server.kind).startswith("redis-6"):
        pytest.skip("its calls do not say which script they are for")
    with (
        LossyProxy(server.port, scripts.library().functions["claim"].encode()) as proxy,
        Trainer(server.url, "r", config()) as trainer,
        opened(proxy.url, "r", lease_s=LEASE_S) as worker,
    ):
        wait_until(lambda: b"blocked_clients:1" in server.command("INFO", "clients"), "the heartbeat waits")
        trainer.enqueue(tasks(1))
        proxy.delay_s = 0.5
        with ThreadPoolExecutor() as pool:
            claim = pool.submit(worker.claim)
            wait_until(lambda: trainer.stats().running, "it is claimed")
            trainer.cancel(["t0"])
            attempts = claim.result()
        until_heard(attempts, "cancelled")


def test_a_worker_that_closes_does_not_wait_for_its_heartbeat(server: ServerUnderTest, opened: Opened):
    with Trainer(server.url, "r", config()), opened(server.url, "r", lease_s=LEASE_S):
        wait_until(lambda: b"blocked_clients:1" in server.command("INFO", "clients"), "the heartbeat waits")
        (thread,) = [each for each in threading.enumerate() if each.name == "broker-heartbeat"]
    assert not thread.is_alive()


def test_a_server_without_room_for_another_connection_is_not_asked_more_often(
    server: ServerUnderTest, opened: Opened, monkeypatch: pytest.MonkeyPatch
):
    """The heartbeat keeps its interval. Else many workers would renew as fast as they can."""
    beats: list[float] = []
    beat = Heartbeat.beat

    def counted(heartbeat: Heartbeat) -> None:
        beats.append(time.monotonic())
        beat(heartbeat)

    monkeypatch.setattr(Heartbeat, "beat", counted)
    with LossyProxy(server.port, b"BZPOPMIN") as proxy, Trainer(server.url, "r", config()) as trainer:
        proxy.lose_requests = 1_000_000
        with opened(proxy.url, "r", lease_s=LEASE_S) as worker:
            trainer.enqueue(tasks(1))
            claimed(worker, 1)
            wait_until(lambda: proxy.lose_requests < 1_000_000 - 3, "it tried again and again")
            assert len(beats) <= 2  # when the connection broke, and once more for a claim that was under way


@pytest.fixture(scope="module", params=redis_kinds()[-1:], ids=str)
def nodes(request: pytest.FixtureRequest) -> Generator[list[ServerUnderTest]]:
    with cluster(request.param) as made:
        yield made


def test_runs_on_several_nodes_of_a_cluster_are_heard(nodes: list[ServerUnderTest], opened: Opened):
    url = f"redis+cluster://127.0.0.1:{nodes[0].port}"
    names = ["train", "eval", "third"]
    with ExitStack() as stack:
        trainers = [stack.enter_context(Trainer(url, name, config())) for name in names]
        for trainer in trainers:
            trainer.enqueue(tasks(1, f"{threading.get_ident()}-{time.time_ns()}-"))
        worker = stack.enter_context(opened(url, names, lease_s=LEASE_S))
        attempts = {attempt.run: attempt for attempt in claimed(worker, 3)}
        for trainer in reversed(trainers):
            trainer.cancel([attempts[trainer.run].task])
            until_heard([attempts[trainer.run]], "cancelled")
