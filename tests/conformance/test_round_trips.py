"""The round trips of clients: how many a call takes, which calls share one, and what happens if that one is lost."""

import asyncio
import os
import signal
import time
from collections.abc import Sequence
from typing import Any

import pytest

from broker import Attempt, BadArgument, BrokerError, Policy, Reject, RunConfig, Task, Trainer, WaitTimeout, Worker, aio
from broker.connections.connection import RedisCommand
from broker.connections.server import Pool
from broker.protocol import anyone, scripts
from broker.protocol import worker as calls
from broker.trainer import batches
from tests.conformance.clients import blocking, coroutine
from tests.conformance.lab import Lab, tasks
from tests.lossy_proxy import LossyProxy
from tests.threads import InThread
from tests.waiting import wait_until

#: Short enough to be noticed when a test waits for it, seconds.
FAR_AWAY_S = 15.0


class Sent:
    """The round trips of all clients of this process: for each the scripts and commands in it."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.trips: list[list[str]] = []
        exchange = Pool.exchange

        async def noted(pool: Pool, commands: Sequence[RedisCommand], *others: float) -> list[Any]:
            self.trips.append([self._name(command) for command in commands if command[0] != "SCRIPT"])
            return await exchange(pool, commands, *others)

        monkeypatch.setattr(Pool, "exchange", noted)
        self._scripts: dict[str, str] = {}

    def _name(self, command: RedisCommand) -> str:
        if command[0] in ("FCALL", "FCALL_RO"):
            return str(command[1]).rpartition("_")[2]
        if command[0] in ("EVALSHA", "EVALSHA_RO"):
            return self._script_of(str(command[1]))
        return str(command[0])

    def _script_of(self, sha1: str) -> str:
        if not self._scripts:
            for name in scripts.names():
                for shebang in (False, True):
                    self._scripts[scripts.load(name, shebang).sha1] = name
        return self._scripts[sha1]

    def taken(self) -> list[list[str]]:
        """Those since the last call."""
        trips, self.trips = self.trips, []
        return trips

    def of(self, name: str) -> list[list[str]]:
        """Those with a call of a script."""
        return [trip for trip in self.trips if name in trip]


@pytest.fixture
def sent(monkeypatch: pytest.MonkeyPatch) -> Sent:
    return Sent(monkeypatch)


@pytest.fixture
def trainer(lab: Lab):
    with Trainer(lab.url, lab.run, RunConfig(consumer_batch_size=64, max_staleness=9)) as made:
        yield made


@pytest.fixture
def worker(lab: Lab, trainer: Trainer):
    with Worker(lab.url, lab.run, heartbeat=False) as made:
        yield made


def work_off(worker: Worker, result: bytes = b"x") -> int:
    done = 0
    while attempts := worker.claim(64):
        worker.submit_many([(attempt, result) for attempt in attempts])
        done += len(attempts)
    return done


# -- the trainer -------------------------------------------------------------------------------------------------------


def test_a_task_is_enqueued_in_one_round_trip(trainer: Trainer, sent: Sent):
    trainer.enqueue(Task(id="t"))
    assert sent.taken() == [["enqueue"]]


def test_a_batch_of_small_results_takes_at_most_two_round_trips(trainer: Trainer, worker: Worker, sent: Sent):
    trainer.enqueue(tasks(64))
    work_off(worker)
    sent.taken()
    assert len(trainer.next_batch(timeout=5)) == 64
    assert len(sent.taken()) <= 2


def test_a_batch_is_waited_for_once(trainer: Trainer, worker: Worker, sent: Sent):
    trainer.enqueue(tasks(64))
    getting = InThread(lambda: trainer.next_batch(timeout=FAR_AWAY_S))
    wait_until(lambda: ["BZPOPMIN"] in sent.trips, "the trainer waits")
    work_off(worker)
    assert len(getting.result()) == 64
    mine = [trip for trip in sent.trips if {"take", "BZPOPMIN", "MGET"} & set(trip)]
    assert [trip[0] for trip in mine][:3] == ["take", "BZPOPMIN", "take"]
    assert len(mine) <= 4


def test_calls_of_other_threads_do_not_wait_for_the_batch(
    trainer: Trainer, worker: Worker, sent: Sent, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(batches, "LOOK_AGAIN_S", 120.0)
    trainer.enqueue(tasks(64))
    getting = InThread(lambda: trainer.next_batch(timeout=None))
    wait_until(lambda: ["BZPOPMIN"] in sent.trips, "the trainer waits")
    sent.taken()
    assert InThread(lambda: trainer.enqueue(tasks(1, "u"))).result(30).added == 1
    assert sent.taken() == [["enqueue"]]
    work_off(worker)
    assert len(getting.result()) == 64
    assert trainer.advance() == 1


def test_a_signal_handler_in_the_middle_of_a_call_is_told(lab: Lab):
    """It runs in the thread whose turn it is, which cannot wait for itself."""
    if lab.url.startswith("fakeredis"):
        pytest.skip("its calls are not interrupted")
    port = int(lab.url.rpartition(":")[2].partition("/")[0])
    told: list[str] = []
    with LossyProxy(port) as proxy, Trainer(proxy.url, lab.run, RunConfig(consumer_batch_size=1)) as trainer:
        proxy.delay_s, before = 1.0, proxy.requests

        def handle(*_: object) -> None:
            try:
                trainer.enqueue(tasks(1, "u"))
            except BadArgument as error:
                told.append(str(error))

        def send() -> None:
            wait_until(lambda: proxy.requests > before, "the call is under way")
            os.kill(os.getpid(), signal.SIGUSR1)

        earlier = signal.signal(signal.SIGUSR1, handle)
        try:
            sender = InThread(send)
            assert trainer.enqueue(tasks(1)).added == 1
            sender.result()
        finally:
            signal.signal(signal.SIGUSR1, earlier)
        assert len(told) == 1
        assert told[0].startswith("a signal handler may not make a call of a client in the middle of another")
        proxy.delay_s = 0.0
        assert trainer.enqueue(tasks(1, "v")).added == 1


def test_a_forked_child_may_not_make_calls_of_the_trainer(lab: Lab, trainer: Trainer):
    """Two processes would use the same numbers, and hear each other's answers."""
    if lab.url.startswith("fakeredis"):
        pytest.skip("its server is in this process")
    trainer.enqueue(tasks(1))
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        signal.alarm(30)
        try:
            trainer.enqueue(tasks(1, "u"))
        except BadArgument as error:
            os.write(write, f"{trainer.stats().pending} {error}".encode())
        finally:
            os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
    os.close(write)
    with os.fdopen(read) as answer:
        assert answer.read().startswith("1 this trainer was opened before a fork")
    assert trainer.enqueue(tasks(1, "v")).added == 1


def test_a_forked_child_does_not_wait_for_the_batch_that_its_parent_forms(lab: Lab, trainer: Trainer, worker: Worker):
    """The thread that forms it is not in the child."""
    if lab.url.startswith("fakeredis"):
        pytest.skip("its server is in this process")
    trainer.enqueue(tasks(2))
    worker.submit(worker.claim()[0], b"x")
    assert len(trainer.next_batch(1, prefetch=True, timeout=5)) == 1
    child = os.fork()
    if child == 0:
        signal.alarm(30)
        try:
            trainer.next_batch(1, prefetch=True)
        except BadArgument as error:
            os._exit(0 if "this trainer was opened before a fork" in str(error) else 1)
        finally:
            os._exit(2)
    assert os.waitpid(child, 0)[1] == 0
    worker.submit(worker.claim()[0], b"x")
    trainer.advance()
    assert len(trainer.next_batch(1, timeout=5)) == 1


@pytest.mark.parametrize("flavour", ["sync", "aio"])
def test_a_trainer_without_workers_takes_back_what_is_due(
    lab: Lab, trainer: Trainer, worker: Worker, monkeypatch: pytest.MonkeyPatch, flavour: str
):
    """No other client calls the server: only the trainer waits for its batch, in vain."""
    monkeypatch.setattr(batches, "LOOK_AGAIN_S", 0.05)
    trainer.enqueue(tasks(1))
    with Worker(lab.url, lab.run, heartbeat=False, lease_s=0.2) as dead:
        assert dead.claim()
        wait_s = 1.0
        with pytest.raises(WaitTimeout):
            if flavour == "sync":
                trainer.next_batch(1, timeout=wait_s)
            else:
                asyncio.run(_waits_for(lab, wait_s))
        assert lab.call(anyone.stats)["total_expired"] == "1"


async def _waits_for(lab: Lab, wait_s: float) -> None:
    async with aio.Trainer(lab.url, lab.run) as trainer:
        await trainer.next_batch(1, timeout=wait_s)


def test_a_filter_sees_each_rollout_once_and_the_rows_come_with_the_take(trainer: Trainer, worker: Worker, sent: Sent):
    trainer.enqueue(tasks(70))
    work_off(worker)
    sent.taken()
    seen: list[str] = []

    def accept(rollout: Any) -> bool:
        seen.append(rollout.task)
        return len(seen) > 3

    batch = trainer.next_batch(accept=accept, timeout=5)
    assert (len(batch), len(seen), len(set(seen))) == (64, 67, 67)
    assert len(sent.taken()) <= 6  # rows and results of the first 64, what is discarded, those of 3 more, sealing


def test_results_are_read_in_pieces_of_the_size_that_those_before_had(
    lab: Lab, worker: Worker, sent: Sent, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("broker.trainer.batch_reader.BYTES_PER_FETCH", 100_000)
    with Trainer(lab.url, lab.run, RunConfig(consumer_batch_size=64, max_staleness=9)) as trainer:
        trainer.enqueue(tasks(128))
        reads: list[int] = []
        for _ in range(2):
            worker.submit_many([(attempt, bytes(20_000)) for attempt in worker.claim(64)])
            sent.taken()
            assert len(trainer.next_batch(timeout=5)) == 64
            reads.append(len([trip for trip in sent.taken() if trip == ["MGET"]]))
            trainer.advance()
    assert reads[1] >= 64 / 5  # of 5 at most


# -- a worker ----------------------------------------------------------------------------------------------------------


def test_a_claim_of_many_is_several_calls_of_64(trainer: Trainer, worker: Worker, sent: Sent):
    trainer.enqueue(tasks(64))
    sent.taken()
    assert len(worker.claim(200)) == 64
    assert [trip[-1] for trip in sent.taken()] == ["claim", "claim"]
    assert (worker.claim_reason, len(worker.held)) == ("empty", 64)


def test_what_was_claimed_before_an_error_is_handed_out(
    lab: Lab, trainer: Trainer, worker: Worker, monkeypatch: pytest.MonkeyPatch
):
    trainer.enqueue(tasks(64))
    trainer.enqueue(tasks(64, "u"))
    io = worker._transport.io
    execute, calls = blocking(io.execute), 0

    def failing_at_last(script_calls: Any, *_: Any) -> Any:
        nonlocal calls
        calls += 1
        return execute(script_calls) if calls == 1 else [BrokerError("OOM")]

    monkeypatch.setattr(io, "execute", coroutine(failing_at_last))
    assert len(worker.claim(100)) == 64
    with pytest.raises(BrokerError, match="OOM"):
        worker.claim(1)


def test_a_loop_takes_a_round_trip_for_each_attempt(trainer: Trainer, worker: Worker, sent: Sent):
    trainer.enqueue(tasks(5))
    sent.taken()
    for done, attempt in enumerate(worker, 1):
        assert worker.submit(attempt, b"x").accepted
        if done == 5:
            break
    trips = sent.taken()
    assert trips == [["claim"]] + [["submit", "claim"]] * 5


def test_a_loop_that_claimed_in_vain_with_its_result_waits_at_once(trainer: Trainer, worker: Worker, sent: Sent):
    trainer.enqueue(tasks(1))
    sent.taken()

    def work() -> None:
        for done, attempt in enumerate(worker, 1):
            worker.submit(attempt, b"x")
            if done == 2:
                break

    working = InThread(work)
    wait_until(lambda: any(trip[0] == "BZPOPMIN" for trip in sent.trips), "the worker waits")
    trainer.enqueue(tasks(1, "later"))
    working.result()
    mine = [trip for trip in sent.taken() if {"claim", "BZPOPMIN"} & set(trip)]
    assert mine[:2] == [["claim"], ["submit", "claim"]]
    assert mine[2][0] == "BZPOPMIN"


@pytest.mark.parametrize("ends", ["fail", "lease"])
def test_what_is_due_is_found_by_a_loop_that_had_to_wait(
    lab: Lab, sent: Sent, monkeypatch: pytest.MonkeyPatch, ends: str
):
    """A retry that is due, and a dead worker's attempts: only a claim finds them."""
    monkeypatch.setattr("broker.worker.wait_for_work.CLAIM_AGAIN_S", FAR_AWAY_S)
    lab.go_live()
    trainer = lab.trainer(consumer_batch_size=4, retry_backoff_ms=50)
    worker = lab.worker(heartbeat=False)
    if ends == "lease":
        trainer.enqueue(Task(id="late"))
        lab.worker(lease_s=0.5, heartbeat=False).claim()

    def work() -> str:
        batches = worker.batches(2)
        one, other = next(batches)
        if ends == "fail":
            worker.fail(one, "boom")
            expected = one.task
        else:
            worker.submit(one, b"x")
            time.sleep(0.6)
            expected = "late"
        worker.submit(other, b"x")
        (again,) = next(batches)
        assert again.task == expected
        return again.task

    working = InThread(work)
    wait_until(lambda: sent.of("BZPOPMIN"), "the worker waits")
    trainer.enqueue(Task(id="group", samples=2))
    assert working.result(10)


def test_a_loop_asks_with_a_new_policy_before_it_waits(lab: Lab, monkeypatch: pytest.MonkeyPatch):
    """What was answered to the one before says nothing about it."""
    monkeypatch.setattr("broker.worker.wait_for_work.WEIGHTS_AGAIN_S", FAR_AWAY_S)
    trainer = lab.trainer(consumer_batch_size=1, max_staleness=1)
    worker = lab.worker()
    trainer.enqueue(tasks(2))
    attempts = iter(worker)
    first = next(attempts)
    worker.policy = Policy(version=0, epoch="1.ffffffff")
    worker.submit(first, b"x")
    assert worker.claim_reason == "weights_stale"
    worker.policy = None
    assert InThread(lambda: next(attempts)).result(5).task == "t1"


def test_a_worker_of_two_runs_does_not_spin_where_one_refuses_its_weights(lab: Lab, sent: Sent):
    """The refused claim arms that run's marker again, for a worker with other weights."""
    other = f"{lab.run}.other"
    trainer = lab.trainer(consumer_batch_size=1)
    lab.trainer(run=other, consumer_batch_size=1).enqueue(tasks(1))
    worker = lab.worker(lab.run, other)
    worker.policy = {other: Policy(version=0, epoch=trainer._state.epoch)}
    sent.taken()
    assert worker.claim(1, timeout=0.5) == []
    assert len(sent.of("claim")) <= 10


def test_batches_take_a_round_trip_each(trainer: Trainer, worker: Worker, sent: Sent):
    trainer.enqueue(tasks(20))
    sent.taken()
    sizes: list[int] = []
    for batch in worker.batches(8):
        answers = worker.submit_many([(attempt, attempt.task.encode()) for attempt in batch])
        assert all(answer.accepted for answer in answers)
        sizes.append(len(batch))
        if sum(sizes) == 20:
            break
    trips = sent.taken()
    assert (sizes, trips) == ([8, 8, 4], [["claim"]] + [["submit", "claim"]] * 3)
    assert worker.held == []


def test_a_batch_is_claimed_ahead_only_when_the_one_before_is_handed_in(trainer: Trainer, worker: Worker, sent: Sent):
    trainer.enqueue(tasks(12))
    batches = worker.batches(4)
    a, b, c, d = next(batches)
    sent.taken()
    worker.submit_many([(a, 1), (b, 2)])
    assert len(worker.held) == 2
    worker.reject(c, "no")
    assert [trip[-1] for trip in sent.taken()] == ["submit", "submit"]
    worker.submit(d, 4)
    assert [trip[-1] for trip in sent.taken()] == ["claim"]
    assert len(worker.held) == 4
    following = next(batches)
    assert [attempt.task for attempt in following] == ["t4", "t5", "t6", "t7"]
    assert sent.taken() == []
    worker.submit_many([(attempt, 1) for attempt in following])
    assert len(worker.held) == 4
    batches.close()  # what was claimed ahead is given back
    assert worker.held == []
    assert trainer.stats().pending == 4
    worker.submit_many([(attempt, 1) for attempt in worker.claim(4)])
    assert worker.held == []


def test_batches_larger_than_a_call(lab: Lab, worker: Worker):
    config = RunConfig(consumer_batch_size=300, max_staleness=9)
    with Trainer(lab.url, lab.run, config, update=True) as trainer:
        trainer.enqueue(tasks(300))
        sizes: list[int] = []
        for batch in worker.batches(150):
            sizes.append(len(batch))
            worker.submit_many([(attempt, b"x") for attempt in batch])
            if sum(sizes) == 300:
                break
    assert sizes == [150, 150]


def test_batches_end_when_the_worker_is_drained(trainer: Trainer, worker: Worker):
    trainer.enqueue(tasks(6))
    done: list[str] = []
    for batch in worker.batches(4):
        worker.drain()
        worker.submit_many([(attempt, b"x") for attempt in batch])
        done += [attempt.task for attempt in batch]
    assert done == ["t0", "t1", "t2", "t3"]


# -- waiting and claiming in one round trip ----------------------------------------------------------------------------


def test_a_worker_that_waits_claims_in_the_round_trip_of_the_wait(trainer: Trainer, worker: Worker, sent: Sent):
    waiting = InThread(lambda: worker.claim(1, timeout=FAR_AWAY_S))
    wait_until(lambda: ["BZPOPMIN", "claim"] in sent.trips, "the worker waits")
    trainer.enqueue(Task(id="t"))
    (attempt,) = waiting.result()
    assert len(sent.of("claim")) == 2
    assert worker.submit(attempt, b"x").accepted


@pytest.mark.parametrize("how", ["stop", "drain"])
def test_a_worker_that_is_told_to_end_claims_nothing_more(
    lab: Lab, trainer: Trainer, worker: Worker, sent: Sent, how: str
):
    waiting = InThread(lambda: worker.claim(1, timeout=FAR_AWAY_S))
    wait_until(lambda: ["BZPOPMIN", "claim"] in sent.trips, "the worker waits")
    getattr(worker, how)()
    assert waiting.result() == []
    if lab.server.kind.is_real:
        # Until the server has read of the connection's end, what would wake the wait executes what was sent with it.
        wait_until(lambda: b"blocked_clients:0" in lab.command("INFO", "clients"), "the server knows that it ended")
    sent.taken()
    trainer.enqueue(Task(id="t"))
    assert trainer.stats().pending == 1


def test_a_claim_whose_answer_is_lost_with_the_wait_is_sent_again(lab: Lab, trainer: Trainer):
    if lab.url.startswith("fakeredis"):
        pytest.skip("there is no connection to lose")
    port = int(lab.url.rpartition(":")[2].partition("/")[0])
    with LossyProxy(port, b"BZPOPMIN") as proxy:
        proxy.lose_replies = 1
        with Worker(proxy.url, lab.run, heartbeat=False) as worker:
            waiting = InThread(lambda: worker.claim(2, timeout=FAR_AWAY_S))
            wait_until(lambda: proxy.requests == 1, "the worker waits")
            trainer.enqueue(tasks(2))
            attempts = waiting.result()
            assert [attempt.task for attempt in attempts] == ["t0", "t1"]
            worker.renew()
            assert all(answer.accepted for answer in worker.submit_many([(attempt, b"x") for attempt in attempts]))


def test_what_was_claimed_for_other_weights_is_given_back(trainer: Trainer, worker: Worker, sent: Sent):
    waiting = InThread(lambda: worker.claim(1, timeout=FAR_AWAY_S))
    wait_until(lambda: ["BZPOPMIN", "claim"] in sent.trips, "the worker waits")
    epoch = trainer.epoch
    trainer.advance(allow_empty=True)
    worker.policy = Policy(version=0, epoch=epoch)
    trainer.enqueue(Task(id="t"))
    (attempt,) = waiting.result()
    assert (attempt.policy, attempt.tries) == (worker.policy, 0)
    assert len(worker.held) == 1


def test_a_session_that_ended_during_the_wait_is_joined_anew(lab: Lab, trainer: Trainer, worker: Worker, sent: Sent):
    waiting = InThread(lambda: worker.claim(1, timeout=FAR_AWAY_S))
    wait_until(lambda: ["BZPOPMIN", "claim"] in sent.trips, "the worker waits")
    lab.do(calls.leave(lab.run, worker.sessions[lab.run]))
    trainer.enqueue(Task(id="t"))
    assert [attempt.task for attempt in waiting.result()] == ["t"]


def test_an_injected_clock_is_read_when_the_wait_is_over(lab: Lab, sent: Sent):
    lab.trainer()
    worker = lab.worker()
    waiting = InThread(lambda: worker.claim(1, timeout=0.5))
    assert waiting.result() == []
    assert ["BZPOPMIN"] in sent.trips


def test_an_idle_worker_asks_once_for_each_wait(trainer: Trainer, worker: Worker, sent: Sent):
    running = InThread(lambda: worker.run(lambda _: b"x"))
    wait_until(lambda: len(sent.of("claim")) >= 4, "it waited a few times")
    worker.stop()
    running.result()
    assert [trip[0] for trip in sent.of("claim")[:4]] == ["claim", "BZPOPMIN", "BZPOPMIN", "BZPOPMIN"]


# -- asyncio -----------------------------------------------------------------------------------------------------------


def run_async(main: Any) -> None:
    async def in_time() -> None:
        async with asyncio.timeout(20):
            await main

    asyncio.run(in_time())


def test_handlers_share_round_trips(lab: Lab, trainer: Trainer, sent: Sent):
    async def main() -> None:
        async with aio.Worker(lab.url, lab.run, heartbeat=False) as worker:
            left = 64

            async def handler(attempt: Attempt) -> bytes:
                nonlocal left
                left -= 1
                if left == 0:
                    worker.drain()
                if attempt.task == "t5":
                    raise Reject("no")
                return b"x"

            sent.taken()
            await worker.run(handler, concurrency=16)
            trips = sent.taken()
            assert trips == [["claim"]] + [["submit", "claim"]] * 3 + [["submit"]]
            assert worker.held == []

    trainer.enqueue(tasks(64))
    run_async(main())
    assert (trainer.stats().ready, trainer.stats().rejected) == (63, 1)


def test_handlers_wait_without_claiming_in_vain(lab: Lab, trainer: Trainer, sent: Sent):
    async def main() -> None:
        async with aio.Worker(lab.url, lab.run, heartbeat=False) as worker:

            async def handler(attempt: Attempt) -> bytes:
                if attempt.task == "last":
                    worker.drain()
                return b"x"

            sent.taken()
            running = asyncio.create_task(worker.run(handler, concurrency=4))
            while ["BZPOPMIN", "claim"] not in sent.trips:
                await asyncio.sleep(0.01)
            await asyncio.to_thread(trainer.enqueue, [Task(id="last")])
            await running

    run_async(main())
    claims = sent.of("claim")
    assert claims == [["claim"], ["BZPOPMIN", "claim"]]


def test_a_result_that_is_finished_when_the_worker_stops_is_sent(lab: Lab, trainer: Trainer):
    async def main() -> None:
        async with aio.Worker(lab.url, lab.run, heartbeat=False) as worker:

            async def handler(attempt: Attempt) -> bytes:
                if attempt.task == "t0":
                    worker.stop()
                    return b"x"
                await asyncio.Event().wait()
                return b"never"

            await worker.run(handler, concurrency=3)

    trainer.enqueue(tasks(3))
    run_async(main())
    assert (trainer.stats().ready, trainer.stats().pending) == (1, 2)


def test_a_loop_in_asyncio_takes_a_round_trip_for_each_attempt(lab: Lab, trainer: Trainer, sent: Sent):
    async def main() -> None:
        async with aio.Worker(lab.url, lab.run, heartbeat=False) as worker:
            sent.taken()
            done = 0
            async for attempt in worker:
                assert (await worker.submit(attempt, b"x")).accepted
                done += 1
                if done == 5:
                    break
            assert sent.taken() == [["claim"]] + [["submit", "claim"]] * 5

    trainer.enqueue(tasks(10))
    run_async(main())
    assert (trainer.stats().ready, trainer.stats().running) == (5, 0)


def test_batches_in_asyncio(lab: Lab, trainer: Trainer, sent: Sent):
    async def main() -> None:
        async with aio.Worker(lab.url, lab.run, heartbeat=False) as worker:
            sent.taken()
            done = 0
            async for batch in worker.batches(4):
                done += len(batch)
                await worker.submit_many([(attempt, b"x") for attempt in batch])
                if done == 10:
                    worker.stop()
            trips = sent.taken()
            assert trips == [["claim"]] + [["submit", "claim"]] * 3

    trainer.enqueue(tasks(10))
    run_async(main())
    assert trainer.stats().ready == 10


def test_a_batch_size_that_is_none_is_refused(worker: Worker):
    for n in (0, 1001):
        with pytest.raises(BrokerError, match="1 to 1000"):
            next(worker.batches(n))
    assert not worker._calls.iterating
