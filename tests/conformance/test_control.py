"""Pause, drain and resume; cancelling; several runs; the loops of both clients."""

import asyncio
import threading
from collections.abc import Callable, Coroutine, Generator
from contextlib import contextmanager
from typing import Any

import pytest

from broker import Attempt, Reject, RunConfig, Task, Trainer, Worker, aio
from broker.errors import BadArgument, NoRun
from broker.operator import Operator
from broker.protocol import keys
from tests.conformance.lab import Lab, names_of, run_one, tasks
from tests.threads import InThread
from tests.waiting import wait_until


@contextmanager
def at_work(worker: Worker, handler: Callable[[Attempt], Any], concurrency: int = 1) -> Generator[InThread]:
    """`worker.run` in a thread, drained at the end."""
    working = InThread(lambda: worker.run(handler, concurrency))
    try:
        yield working
    finally:
        worker.drain()
        working.result()


def run_async(main: Callable[[], Coroutine[Any, Any, None]]) -> None:
    """Runs a coroutine function to its end, which must come in time."""

    async def in_time() -> None:
        async with asyncio.timeout(20):
            await main()

    asyncio.run(in_time())


SHORT_LEASE = RunConfig(consumer_batch_size=1, lease_ms=150)


def test_paused_hands_out_nothing_and_takes_results(lab: Lab):
    """Mutants: pause_ignored."""
    trainer, worker = lab.trainer(consumer_batch_size=3), lab.worker()
    trainer.enqueue([Task(id="t", samples=2), *tasks(2, "u")])
    first, second = worker.claim(2)
    assert trainer.pause() == ""
    worker.release(second)
    assert worker.claim(9) == []
    assert worker.claim_reason == "paused"
    assert worker.submit(first, b"x").answer == "accepted"
    assert trainer.stats().paused == "paused"
    assert trainer.resume() == "paused"
    assert len(worker.claim(9)) == 3


def test_draining_finishes_what_runs_and_starts_nothing(lab: Lab):
    """Mutants: draining_starts_tasks."""
    trainer, worker = lab.trainer(consumer_batch_size=3), lab.worker()
    trainer.enqueue([Task(id="t", samples=2), *tasks(2, "u")])
    (first,) = worker.claim(1)
    assert trainer.drain() == ""
    attempts = worker.claim(9)
    assert [attempt.task for attempt in attempts] == ["t"]
    assert worker.claim_reason == "draining"
    for attempt in [first, *attempts]:
        worker.submit(attempt, b"x")
    assert worker.claim(9) == []
    assert trainer.resume() == "draining"
    assert len(worker.claim(9)) == 2


def test_operators_pause_while_a_trainer_runs(lab: Lab):
    trainer, worker = lab.trainer(), lab.worker()
    trainer.enqueue(tasks(2))
    with Operator(lab.url) as operator:
        lab.go_live()
        assert operator.pause(lab.run) == ""
        assert operator.pause(lab.run, "draining") == "paused"
        assert worker.claim() == []
        trainer.enqueue(tasks(1, "more"))  # the trainer is not fenced
        assert operator.resume(lab.run) == "draining"
    assert len(worker.claim()) == 1


def test_a_worker_that_drains_claims_nothing_more(lab: Lab):
    trainer, worker = lab.trainer(consumer_batch_size=3), lab.worker()
    trainer.enqueue(tasks(3))
    got: list[str] = []
    for attempt in worker:
        got.append(attempt.task)
        if len(got) == 2:
            worker.drain()
        worker.submit(attempt, b"x")
    assert got == ["t0", "t1"]
    assert trainer.stats().running == 0


# -- several runs ------------------------------------------------------------------------------------------------------


def test_a_worker_serves_the_preferred_run_first(lab: Lab):
    evaluation = f"{lab.run}/eval"
    train = lab.trainer(consumer_batch_size=2)
    test = lab.trainer(run=evaluation, consumer_batch_size=2, max_staleness=None)
    worker = lab.worker(evaluation, lab.run)
    train.enqueue(tasks(2, "train"))
    test.enqueue(tasks(2, "eval"))
    attempts = worker.claim(3)
    assert [(attempt.run, attempt.task) for attempt in attempts] == [
        (evaluation, "eval0"), (evaluation, "eval1"), (lab.run, "train0"),
    ]  # fmt: skip
    for attempt in attempts:
        assert worker.submit(attempt, attempt.run).answer == "accepted"
    assert names_of(test.next_batch(timeout=1)) == ["eval0", "eval1"]
    assert [worker.release(attempt)[0].answer for attempt in worker.claim(5)] == ["released"]


def test_a_worker_of_several_runs_wakes_for_each(lab: Lab, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("broker.worker.wait_for_work.CLAIM_AGAIN_S", 60.0)
    other = f"{lab.run}/eval"
    trainers = [lab.trainer(), lab.trainer(run=other)]
    worker = lab.worker(lab.run, other)
    for i, trainer in enumerate(trainers):
        waiting = InThread(lambda: worker.claim(1, timeout=60))
        wait_until(lambda: all(s._settled == s._number for s in worker._state.sessions.values()), "claimed in vain")
        trainer.enqueue(Task(id=f"of-{i}"))
        (attempt,) = waiting.result()
        assert attempt.task == f"of-{i}"
        worker.submit(attempt, b"x")


def test_a_worker_of_several_runs_leaves_the_marker_of_the_one_that_it_does_not_ask(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
):
    """The worker was woken for one run, and found due work in the other. No wait ends by its time-out."""
    monkeypatch.setattr("broker.worker.wait_for_work.CLAIM_AGAIN_S", 60.0)
    other = f"{lab.run}/eval"
    first, second = lab.trainer(retry_backoff_ms=20_000), lab.trainer(run=other)
    failing = lab.worker()
    first.enqueue(Task(id="again"))
    failing.fail(failing.claim()[0], "boom")
    worker = lab.worker(lab.run, other)
    waiting = InThread(lambda: worker.claim(1, timeout=60))
    wait_until(lambda: all(s._settled == s._number for s in worker._state.sessions.values()), "claimed in vain")
    lab.pass_ms(20_100)
    second.enqueue(Task(id="new"))
    (attempt,) = waiting.result()
    assert attempt.task == "again"
    assert lab.command("EXISTS", keys.wake(other)) == 1


@pytest.mark.parametrize("runs", [[], ["a", "a"]])
def test_runs_must_be_different(lab: Lab, runs: list[str]):
    with pytest.raises(BadArgument):
        Worker(lab.url, runs)


def test_all_runs_must_exist(lab: Lab):
    lab.trainer()
    with pytest.raises(NoRun):
        Worker(lab.url, [lab.run, "nobody"])


def test_an_attempt_of_another_worker_is_refused_in_words(lab: Lab):
    other = lab.trainer(run=f"{lab.run}/b")
    lab.trainer()
    other.enqueue(tasks(1))
    (attempt,) = lab.worker(f"{lab.run}/b").claim()
    worker = lab.worker()
    with pytest.raises(BadArgument, match="that this worker claimed"):
        worker.submit(attempt, b"x")
    with pytest.raises(BadArgument):
        worker.fail(attempt, "boom")


# -- cooperative cancel, the synchronous loops ------------------------------------------------------------------------


def test_a_cancelled_attempt_says_so_while_it_works(lab: Lab):
    with Trainer(lab.url, lab.run, SHORT_LEASE) as trainer, Worker(lab.url, lab.run) as worker:
        trainer.enqueue([Task(id="t"), Task(id="u")])
        started, seen = threading.Event(), list[str]()

        def handler(attempt: Attempt) -> bytes:
            if attempt.task == "t":
                started.set()
                wait_until(lambda: attempt.cancelled, "it is cancelled")
                seen.append(attempt.cancel_reason or "")
            return b"x"

        with at_work(worker, handler):
            assert started.wait(10)
            trainer.cancel(["t"])
            (rollout,) = trainer.next_batch(timeout=10)
        assert (seen, rollout.task) == (["cancelled"], "u")
        assert worker.held == []
        assert trainer.stats().totals.get("late", 0) == 0


def test_run_works_with_several_threads_and_reports_every_outcome(lab: Lab):
    config = RunConfig(consumer_batch_size=8, max_attempts=2, retry_backoff_ms=0)
    with Trainer(lab.url, lab.run, config) as trainer, Worker(lab.url, lab.run) as worker:
        trainer.enqueue(Task(id=name) for name in ("a", "b", "bad", "raises", "odd", "c"))
        together = threading.Barrier(3)

        def handler(attempt: Attempt) -> Any:
            if attempt.task in {"a", "b", "c"}:
                together.wait(10)  # three at the same time, or this breaks
            match attempt.task:
                case "bad":
                    raise Reject("no advantage")
                case "raises":
                    raise RuntimeError("boom")
                case "odd":
                    return object()  # cannot be encoded
                case name:
                    return {"of": name}

        with at_work(worker, handler, 3):
            wait_until(lambda: trainer.stats().ready == 3 and trainer.stats().running == 0, "all have ended")
        batch = trainer.next_batch(3, timeout=5)
        assert sorted(rollout.results[0]["of"] for rollout in batch) == ["a", "b", "c"]
    assert lab.row("bad").reason == "no advantage"
    assert (lab.row("raises").state, lab.row("raises").reason) == ("dead", "RuntimeError('boom')")
    assert lab.row("odd").state == "dead"


def test_stop_gives_back_what_is_held(lab: Lab):
    with Trainer(lab.url, lab.run, RunConfig(consumer_batch_size=2)) as trainer, Worker(lab.url, lab.run) as worker:
        trainer.enqueue(tasks(2))
        stopped = threading.Event()

        def handler(attempt: Attempt) -> bytes:
            wait_until(lambda: attempt.cancelled, "it is told to stop")
            stopped.set()
            return b"x"

        with at_work(worker, handler, 2):
            wait_until(lambda: trainer.stats().running == 2, "both are worked on")
            worker.stop()
        assert stopped.wait(10)
        wait_until(lambda: not any(t.name.startswith("broker-t") for t in threading.enumerate()), "the handlers end")
        assert trainer.stats().pending == 2
        assert [slot.why for slot in lab.row("t0").slots] == ["released"]


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit, ValueError])
def test_leaving_the_loop_by_an_exception_fails_what_was_worked_on_and_gives_back_the_rest(
    lab: Lab, error: type[BaseException]
):
    """An exception of the body ends its own attempt as failed; attempts that were claimed ahead are released."""
    trainer = lab.trainer(consumer_batch_size=3)
    trainer.enqueue(tasks(3))
    with pytest.raises(error), Worker(lab.url, lab.run, clock=lab.clock) as worker:
        for attempt in worker:
            worker.submit(attempt, b"x")
            worker.claim(1)
            raise error
    stats = trainer.stats()
    assert (stats.sessions, stats.pending, stats.delayed, stats.ready) == (0, 1, 1, 1)


@pytest.mark.parametrize("given", [0, -1])
def test_concurrency_is_positive(lab: Lab, given: int):
    lab.trainer()
    with pytest.raises(BadArgument):
        lab.worker().run(lambda _: None, concurrency=given)


@pytest.mark.parametrize("n", [0, -1, 1_001])
def test_claims_are_for_1_to_1000(lab: Lab, n: int):
    lab.trainer()
    with pytest.raises(BadArgument):
        lab.worker().claim(n)


# -- asyncio -----------------------------------------------------------------------------------------------------------


def test_the_asyncio_clients_do_the_same(lab: Lab):
    async def main() -> None:
        config = RunConfig(consumer_batch_size=2, max_staleness=1, max_concurrent_rollouts=9)
        async with aio.Trainer(lab.url, lab.run, config) as trainer, aio.Worker(lab.url, lab.run, name="w") as worker:

            async def rows():
                for i in range(6):
                    yield Task(id=f"t{i}", payload=i, samples=2)

            assert (await trainer.enqueue(rows(), cursor=6)).added == 6
            assert (await trainer.enqueue(Task(id="t0"))).existing == ["t0"]
            attempts = await worker.claim(4)
            assert worker.held == attempts
            for attempt in attempts:
                assert (await worker.submit(attempt, attempt.payload)).accepted
            batch = await trainer.next_batch(timeout=5)
            assert [rollout.results for rollout in batch] == [[0, 0], [1, 1]]
            assert names_of(await trainer.read_batch(0, 1, 2)) == ["t1"]
            assert await trainer.advance(b"weights") == 1

            a, b, c, d, e = await worker.claim(5)
            assert a.blob == b"weights"
            assert (await worker.fail(a, "boom", retry=False)).answer == "failed"
            assert (await worker.reject(c, "bad")).answer == "rejected"
            assert [one.answer for one in await worker.release([e])] == ["released"]
            assert (await worker.submit(b, 0)).answer == "unknown"
            await worker.renew()
            assert d.cancelled
            assert await trainer.cancel(["t4"]) == {"t4": "cancelled"}
            assert await trainer.discard(["t5"]) == {"t5": "pending"}
            assert await trainer.retry(["t2"]) == {"t2": "retried"}
            assert await trainer.pause() == ""
            assert await worker.claim() == []
            assert worker.claim_reason == "paused"
            assert await trainer.resume() == "paused"
            assert (await trainer.stats()).dead == 0
            assert await trainer.capacity() == (await trainer.stats()).capacity
            assert (await trainer.audit()).ok
            assert (await trainer.audit(repair=True)).drift == {}
            assert (await trainer.explain()).binding == "none"

            async def accept(rollout: Any) -> bool:
                await asyncio.sleep(0)
                return rollout.task != "t2"

            while attempts := await worker.claim(9):
                for attempt in attempts:
                    await worker.submit(attempt, 1)
            assert names_of(await trainer.next_batch(1, accept=accept, timeout=5)) == ["t5"]

    run_async(main)


def test_a_handler_whose_attempt_is_taken_back_is_cancelled(lab: Lab):
    async def main() -> None:
        async with aio.Trainer(lab.url, lab.run, SHORT_LEASE) as trainer, aio.Worker(lab.url, lab.run) as worker:
            await trainer.enqueue([Task(id="t"), Task(id="u")])
            cancelled: list[str] = []
            started = asyncio.Event()

            async def handler(attempt: Attempt) -> bytes:
                if attempt.task == "u":
                    return b"x"
                started.set()
                try:
                    await asyncio.Event().wait()
                except asyncio.CancelledError:
                    cancelled.append(f"{attempt.task}: {attempt.cancel_reason}")
                    raise
                return b"never"

            working = asyncio.create_task(worker.run(handler, concurrency=2))
            await asyncio.wait_for(started.wait(), 10)
            await trainer.cancel(["t"])
            (rollout,) = await trainer.next_batch(timeout=10)
            while worker.held or not cancelled:
                await asyncio.sleep(0.01)
            assert (rollout.task, cancelled) == ("u", ["t: cancelled"])
            worker.drain()
            await asyncio.wait_for(working, 10)

    run_async(main)


def test_the_asyncio_loop_reports_every_outcome(lab: Lab):
    async def main() -> None:
        config = RunConfig(consumer_batch_size=8, max_attempts=2, retry_backoff_ms=0, halt_after_failures=0)
        async with aio.Trainer(lab.url, lab.run, config) as trainer, aio.Worker(lab.url, lab.run) as worker:
            await trainer.enqueue(Task(id=name) for name in ("a", "b", "bad", "raises", "odd", "c"))
            busy = most = 0

            async def handler(attempt: Attempt) -> Any:
                nonlocal busy, most
                busy += 1
                most = max(most, busy)
                await asyncio.sleep(0)
                try:
                    match attempt.task:
                        case "bad":
                            raise Reject("no advantage")
                        case "raises":
                            raise RuntimeError("boom")
                        case "odd":
                            return object()
                        case name:
                            return {"of": name}
                finally:
                    busy -= 1

            working = asyncio.create_task(worker.run(handler, concurrency=3))
            while (
                (await trainer.stats()).ready < 3 or (await trainer.stats()).running or (await trainer.stats()).pending
            ):
                await asyncio.sleep(0.01)
            batch = await trainer.next_batch(3, timeout=10)
            worker.drain()
            await asyncio.wait_for(working, 10)
            assert sorted(rollout.results[0]["of"] for rollout in batch) == ["a", "b", "c"]
            assert 1 < most <= 3

    run_async(main)
    assert lab.row("bad").reason == "no advantage"
    assert lab.row("raises").state == "dead"
    assert lab.row("odd").state == "dead"


def test_cancelling_the_asyncio_loop_gives_back_what_is_held(lab: Lab):
    async def main() -> None:
        config = RunConfig(consumer_batch_size=3)
        async with aio.Trainer(lab.url, lab.run, config) as trainer, aio.Worker(lab.url, lab.run) as worker:
            await trainer.enqueue(tasks(3))
            working = asyncio.create_task(worker.run(lambda _: asyncio.Event().wait(), concurrency=3))
            while (await trainer.stats()).running < 3:
                await asyncio.sleep(0.01)
            working.cancel()
            with pytest.raises(asyncio.CancelledError):
                await working
            assert (await trainer.stats()).pending == 3
            assert worker.held == []

    run_async(main)


def test_the_asyncio_worker_iterates(lab: Lab):
    async def main() -> None:
        config = RunConfig(consumer_batch_size=3)
        async with aio.Trainer(lab.url, lab.run, config) as trainer, aio.Worker(lab.url, lab.run) as worker:
            await trainer.enqueue(tasks(3))
            got: list[str] = []
            async for attempt in worker:
                got.append(attempt.task)
                await worker.submit(attempt, b"x")
                if len(got) == 3:
                    worker.stop()
            assert got == ["t0", "t1", "t2"]

    run_async(main)


def test_prefetch_in_asyncio(lab: Lab):
    async def main() -> None:
        config = RunConfig(consumer_batch_size=1, max_staleness=1, max_concurrent_rollouts=9)
        async with aio.Trainer(lab.url, lab.run, config) as trainer, aio.Worker(lab.url, lab.run) as worker:
            await trainer.enqueue(tasks(5))
            for attempt in await worker.claim(2):
                await worker.submit(attempt, b"x")
            seen = names_of(await trainer.next_batch(prefetch=True, timeout=5))
            seen += names_of(await trainer.next_batch(prefetch=True, timeout=5))
            assert await trainer.advance() == 1
            assert await trainer.advance() == 2
            assert seen == ["t0", "t1"]
            (attempt,) = await worker.claim()
            await worker.submit(attempt, b"x")
            assert names_of(await trainer.next_batch(prefetch=True, timeout=5)) == [attempt.task]

    run_async(main)


def test_an_attached_asyncio_trainer_only_reads(lab: Lab):
    trainer = lab.trainer()
    trainer.enqueue(tasks(1))
    run_one(lab.worker())
    trainer.next_batch(timeout=1)

    async def main() -> None:
        async with aio.Trainer(lab.url, lab.run, attach=True) as rank:
            with pytest.raises(BadArgument, match="only read"):
                await rank.advance()
            assert names_of(await rank.read_batch(0)) == ["t0"]

    run_async(main)
    trainer.advance()
