"""Servers that are full, read-only, closed, gone for a while or something else, as trainers and workers meet them."""

import asyncio
import time
from collections.abc import Callable, Generator
from typing import Any

import pytest

from broker import RunConfig, Trainer, Worker, aio
from broker.connections import open_transport
from broker.errors import (
    AuthenticationFailed,
    BadUrl,
    BrokerError,
    NoRun,
    OutOfMemory,
    ReadOnlyServer,
    ServerUnavailable,
    UnsupportedServer,
)
from broker.protocol import anyone
from broker.protocol import trainer as calls
from tests.conformance.clients import unanswered
from tests.conformance.lab import Lab, names_of, tasks
from tests.lossy_proxy import ScriptedServer, bulk
from tests.servers import ServerKind, ServerUnderTest, begin_move, cluster, end_move, free_port, real_kinds, redis_kinds
from tests.threads import InThread
from tests.waiting import wait_until

CONFIG = RunConfig(consumer_batch_size=1)


@pytest.fixture(params=real_kinds(), ids=str)
def own(request: pytest.FixtureRequest) -> Generator[ServerUnderTest]:
    """A server of this test's own."""
    with ServerUnderTest(request.param, durable=True) as started:
        yield started


@pytest.fixture
def own_lab(own: ServerUnderTest, run: str) -> Generator[Lab]:
    with Lab(own, run) as lab:
        yield lab
        lab.close_clients()
        lab.check()


async def _opened(client: Any) -> None:
    async with client:
        pass


#: Every way to a server that users have.
WAYS: list[Callable[[str], Any]] = [
    lambda url: Trainer(url, "r", CONFIG, retry_for_s=0.2),
    lambda url: Worker(url, "r", retry_for_s=0.2),
    lambda url: asyncio.run(_opened(aio.Trainer(url, "r", CONFIG, retry_for_s=0.2))),
    lambda url: asyncio.run(_opened(aio.Worker(url, "r", retry_for_s=0.2))),
]
each_way = pytest.mark.parametrize("way", WAYS, ids=["trainer", "worker", "aio trainer", "aio worker"])


@each_way
def test_nobody_is_there(way: Callable[[str], Any]):
    with pytest.raises(ServerUnavailable) as caught:
        way(f"redis://127.0.0.1:{free_port()}")
    assert "refused" in str(caught.value)


@each_way
def test_it_is_too_old(way: Callable[[str], Any]):
    with ScriptedServer(lambda _: bulk("redis_version:5.0.7\r\n")) as old:
        with pytest.raises(UnsupportedServer, match=r"5\.0\.7"):
            way(old.url)


@each_way
def test_it_is_no_redis(way: Callable[[str], Any]):
    with ScriptedServer(lambda _: b"HTTP/1.1 400 Bad Request\r\n\r\n") as other, pytest.raises(UnsupportedServer):
        way(other.url)


@each_way
@pytest.mark.parametrize("url", ["", "http://x", "redis://h:port", "localhost:6379", "redis://h:99999"])
def test_the_url_is_none(way: Callable[[str], Any], url: str):
    with pytest.raises(BadUrl):
        way(url)


@each_way
def test_it_needs_a_password(own: ServerUnderTest, way: Callable[[str], Any]):
    own.command("CONFIG", "SET", "requirepass", "secret")
    with pytest.raises(AuthenticationFailed) as caught:
        way(own.url)
    assert "secret" not in str(caught.value)
    with pytest.raises(BrokerError) as caught:
        way(own.url.replace("redis://", "redis://:wrong@"))
    assert isinstance(caught.value, AuthenticationFailed)
    with open_transport(own.url.replace("redis://", "redis://:secret@")) as transport:
        transport.command("CONFIG", "SET", "requirepass", "")


@each_way
def test_it_is_read_only(own: ServerUnderTest, way: Callable[[str], Any]):
    with ServerUnderTest(own.kind) as replica:
        with Trainer(own.url, "r", CONFIG):
            pass
        own.command("CONFIG", "SET", "repl-diskless-sync-delay", "0")
        replica.command("REPLICAOF", "127.0.0.1", own.port)
        wait_until(lambda: b"master_link_status:up" in replica.command("INFO", "replication"), "it is a replica")
        with pytest.raises(ReadOnlyServer):
            way(replica.url)


# -- a full server -----------------------------------------------------------------------------------------------------


def fill_up(lab: Lab) -> None:
    lab.command("CONFIG", "SET", "maxmemory", "1")


def test_a_full_server_settles_an_advance_without_answer(own_lab: Lab):
    """An advance frees memory."""
    trainer = own_lab.trainer(consumer_batch_size=1)
    with unanswered(trainer, "not sent"):
        trainer.advance(allow_empty=True)
    fill_up(own_lab)
    assert trainer.advance(allow_empty=True) == 1


def test_a_full_server_refuses_new_work_and_finishes_what_it_has(own_lab: Lab):
    """Mutants: submit_denied_when_full."""
    lab = own_lab
    trainer = lab.trainer(consumer_batch_size=2, max_staleness=1, max_concurrent_rollouts=9, retry_backoff_ms=0)
    worker, other = lab.worker(), lab.worker()
    trainer.enqueue(tasks(9))
    a, b, c, d = worker.claim(4)
    worker.submit(a, b"x")
    lab.command("DEL", lab.key("wake"), lab.key("wake:ready"))
    fill_up(lab)

    before = lab.dump()
    for call in (
        lambda: trainer.enqueue(tasks(3, "more")),
        lambda: other.claim(1),
        lambda: lab.trainer(run=f"{lab.run}/new"),
        lambda: worker.submit(c, b"y" * 100_000),  # its bytes cannot be stored
        lambda: lab.raw_trainer(consumer_batch_size=2),
    ):
        with pytest.raises(OutOfMemory):
            call()
        after = lab.dump()
        assert {**after, "state": None} == {**before, "state": None}, "nothing half-written"
        assert after["state"] == before["state"]

    assert worker.submit(b, b"x").answer == "accepted"
    assert worker.release(d)[0].answer == "released"
    worker.renew()
    batch = trainer.next_batch(timeout=5)
    assert names_of(batch) == ["t0", "t1"]
    assert trainer.advance() == 1
    assert trainer.cancel(["t8"]) == {"t8": "cancelled"}
    assert worker.fail(c, "boom").answer == "retried"
    assert trainer.stats().capacity == 4
    assert trainer.requeue() == 0

    lab.command("CONFIG", "SET", "maxmemory", "0")
    assert trainer.enqueue(tasks(1, "again")).added == 1
    assert len(worker.claim(9)) == 4
    assert trainer.audit().ok


def test_a_full_server_takes_every_way_out(own_lab: Lab):
    """The order of a script's commands does not matter. Before Redis 7, a full server refuses the first write that needs memory."""
    lab = own_lab
    trainer = lab.raw_trainer(consumer_batch_size=2, max_staleness=3, max_concurrent_rollouts=9, retry_backoff_ms=5)
    trainer.enqueue(*(f"t{i}" for i in range(9)))
    leaving, worker = lab.raw_worker("leaving"), lab.raw_worker("worker")
    leaving.claim(1)
    failed, done, rejected, _ = (worker.take_one() for _ in range(4))
    fill_up(lab)

    assert leaving.leave()
    assert worker.fail(failed).word == "retried"
    assert worker.submit(done).word == "accepted"
    assert worker.submit(rejected, verdict="reject").word == "rejected"
    trainer.send(calls.pause, "paused")
    trainer.send(calls.pause, "")
    assert trainer.send(calls.cancel, ["t7"]) == ["cancelled"]
    lab.pass_ms(3_600_000)
    assert lab.call(anyone.requeue, 100) > 0
    assert trainer.send(calls.discard, "no", ["t2"]) == ["discarded"]


def test_scripts_are_replicated_by_what_they_wrote(own: ServerUnderTest, run: str):
    """Redis 6 may be told to send replicas the call instead, and lets no script write then that asked for the time."""
    if own.kind.supports_shebang:
        pytest.skip("since Redis 7 it is always so")
    own.command("CONFIG", "SET", "lua-replicate-commands", "no")
    own.command("CONFIG", "SET", "repl-diskless-sync-delay", "0")
    with ServerUnderTest(own.kind, replica_of=own.port) as replica:
        wait_until(lambda: b"master_link_status:up" in replica.command("INFO", "replication"), "it is a replica")
        with Trainer(own.url, run, CONFIG) as trainer, Worker(own.url, run) as worker:
            trainer.enqueue(tasks(20))
            for attempt in worker.claim(1):
                worker.submit(attempt, b"x")
            trainer.next_batch(timeout=5)
            assert trainer.advance() == 1
        wait_until(lambda: own.command("DEBUG", "DIGEST") == replica.command("DEBUG", "DIGEST"), "both hold the same")


def test_a_blocked_worker_says_that_the_server_is_full(own_lab: Lab):
    lab = own_lab
    lab.trainer()
    worker = lab.worker()
    fill_up(lab)
    with pytest.raises(OutOfMemory):
        worker.claim(1, timeout=30)
    lab.command("CONFIG", "SET", "maxmemory", "0")
    assert worker.claim(1) == []


def test_a_server_that_evicts_is_warned_about(own_lab: Lab, caplog: pytest.LogCaptureFixture):
    own_lab.command("CONFIG", "SET", "maxmemory", "100mb")
    own_lab.command("CONFIG", "SET", "maxmemory-policy", "allkeys-lru")
    own_lab.trainer()
    assert "allkeys-lru" in caplog.text
    assert "noeviction" in caplog.text


# -- a server that goes and comes back ---------------------------------------------------------------------------------


def test_it_comes_back_while_a_worker_waits(own_lab: Lab, own: ServerUnderTest):
    """A frequent complaint about queues: a worker is alive, but takes no work after a reconnect."""
    lab = own_lab
    trainer = lab.trainer(consumer_batch_size=3)
    worker = lab.worker()
    waiting = InThread(lambda: worker.claim(1, timeout=60))
    wait_until(lambda: b"blocked_clients:0\r" not in lab.command("INFO", "clients"), "it waits")
    own.restart()
    trainer.enqueue(tasks(1))
    (attempt,) = waiting.result(30)
    assert worker.submit(attempt, b"x").answer == "accepted"


def test_it_comes_back_while_a_trainer_waits(own_lab: Lab, own: ServerUnderTest):
    lab = own_lab
    trainer, worker = lab.trainer(consumer_batch_size=2), lab.worker()
    trainer.enqueue(tasks(2))
    waiting = InThread(trainer.next_batch)
    wait_until(lambda: b"blocked_clients:0\r" not in lab.command("INFO", "clients"), "it waits")
    own.kill()
    working = InThread(lambda: [worker.submit(attempt, b"x") for attempt in worker.claim(2)])
    own.start()
    working.result(30)
    assert names_of(waiting.result(30)) == ["t0", "t1"]


def test_calls_ride_out_a_restart(own_lab: Lab, own: ServerUnderTest):
    lab = own_lab
    trainer, worker = lab.trainer(consumer_batch_size=1), lab.worker()
    for step in range(2):
        own.kill()
        calling = InThread(lambda step=step: trainer.enqueue(tasks(1, f"s{step}/")))
        own.start()
        assert calling.result(30).added == 1
        own.restart()
        (attempt,) = worker.claim(1, timeout=5)
        own.restart()
        assert worker.submit(attempt, b"x" * 20_000).answer == "accepted"
        own.restart()
        assert len(trainer.next_batch(timeout=5)) == 1
        own.restart()
        assert trainer.advance() == step + 1
    assert trainer.audit().ok


def test_a_server_that_forgot_the_scripts(own_lab: Lab):
    lab = own_lab
    trainer, worker = lab.trainer(consumer_batch_size=1), lab.worker()
    trainer.enqueue(tasks(1))
    for what in ("SCRIPT", "FUNCTION") if lab.server.kind.supports_shebang else ("SCRIPT",):
        lab.command(what, "FLUSH")
        (attempt,) = worker.claim()
        lab.command(what, "FLUSH")
        worker.release(attempt)
    lab.command("SCRIPT", "FLUSH")
    assert trainer.stats().pending == 1


@pytest.mark.parametrize("kind", redis_kinds(), ids=str)
def test_a_run_whose_slot_moves_to_another_node_waits(kind: ServerKind, run: str, caplog: pytest.LogCaptureFixture):
    """A node that is giving a slot away fails a script at the first missing key, after writes to other keys."""
    with cluster(kind) as members:
        url = f"redis+cluster://127.0.0.1:{members[0].port}"
        config = RunConfig(consumer_batch_size=1)
        with Trainer(url, run, config) as trainer, Worker(url, run) as worker, open_transport(url) as transport:
            trainer.enqueue(tasks(4))
            (attempt,) = worker.claim(1)
            slot = members[0].command("CLUSTER", "KEYSLOT", f"{{{run}}}")
            old = next(node for node in members if node.command("CLUSTER", "COUNTKEYSINSLOT", slot))
            new = next(node for node in members if node is not old)
            begin_move(slot, old, new)

            failing = InThread(lambda: worker.fail(attempt, "boom"))
            wait_until(lambda: "trying for" in caplog.text, "the call is sent again")
            names = old.command("CLUSTER", "GETKEYSINSLOT", slot, 100)
            old.command("MIGRATE", "127.0.0.1", new.port, "", 0, 5000, "KEYS", *names[::2])
            waiting = InThread(trainer.stats)
            time.sleep(0.3)
            old.command("MIGRATE", "127.0.0.1", new.port, "", 0, 5000, "KEYS", *names[1::2])
            end_move(slot, old, new, members)

            assert failing.result().answer == "retried"
            assert waiting.result().capacity <= 1
            assert trainer.audit().ok
            assert transport.execute([anyone.check(run, [f"t{i}" for i in range(4)])]) == [[]]


def test_a_server_that_lost_everything_is_told(own_lab: Lab):
    lab = own_lab
    trainer, worker = lab.trainer(consumer_batch_size=1), lab.worker()
    trainer.enqueue(tasks(2))
    (attempt,) = worker.claim()
    lab.command("FLUSHALL")
    for call in (lambda: trainer.enqueue(tasks(1)), lambda: worker.submit(attempt, b"x")):
        with pytest.raises(NoRun):
            call()
    # The worker waits for somebody to bring the run back, and goes on then.
    assert worker.claim() == []
    lab.trainer(consumer_batch_size=1).enqueue(tasks(2, "new"))
    (again,) = worker.claim()
    assert again.task == "new0"
    assert worker.submit(attempt, b"x").answer == "unknown"
    assert worker.submit(again, b"x").answer == "accepted"
    assert lab.command("KEYS", "*result*") == [lab.key(f"result:{again.id}").encode()]


def test_a_server_that_lost_the_newest_calls_is_told(own_lab: Lab):
    """G8: the trainer gets REWOUND before it takes another batch or advances. Mutants: gaps_allowed."""
    lab = own_lab
    trainer, worker = lab.raw_trainer(), lab.raw_worker()
    trainer.enqueue("a")
    names = lab.command("KEYS", "rb1:*")
    saved = [(name, lab.command("DUMP", name)) for name in names]
    worker.work()
    digest = trainer.take(0, 1).digest
    lab.command("FLUSHALL")
    for name, value in saved:
        lab.command("RESTORE", name, 0, value)
    for make, args, options in (
        (calls.take, (0, 1), {"limit": 5, "seal": True}),
        (calls.advance, (0, digest), {}),
        (calls.enqueue, ([calls.NewTask("b", b"")],), {}),
    ):
        with pytest.raises(BrokerError) as caught:
            trainer.send(make, *args, number=trainer.number + 1, **options)
        assert caught.value.code == "REWOUND"
    assert lab.states() == {"a": "pending"}
