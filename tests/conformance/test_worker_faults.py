"""Faults of workers are not failures of tasks; and what is kept of a failure, whosever it is."""

import asyncio
import threading
from collections.abc import Callable
from typing import Any

import pytest

from broker import Attempt, Exhausted, Task, Worker, WorkerFault, aio
from broker.errors import BadArgument
from broker.protocol.worker import TRACE_BYTES
from tests.conformance.lab import Lab, tasks
from tests.threads import InThread
from tests.waiting import wait_until


def test_a_fault_of_a_worker_costs_no_attempt_and_another_worker_tries(lab: Lab):
    """Mutant: a_fault_is_a_failure."""
    trainer, first, second = lab.trainer(max_attempts=1), lab.worker(name="w1"), lab.worker(name="w2")
    trainer.enqueue(Task(id="t"))
    assert first.fail(first.claim()[0], "no engine", "worker").answer == "retried"
    assert (first.claim(), first.claim_reason) == ([], "faulted")
    (attempt,) = second.claim()
    assert (attempt.tries, second.submit(attempt, b"x").answer) == (0, "accepted")
    assert (lab.stat("total_faults"), lab.states()) == (1, {"t": "ready"})


def test_faults_of_three_workers_are_one_failure(lab: Lab):
    """Mutants: faults_never_count, faults_of_one_worker_count."""
    trainer, workers = lab.trainer(max_attempts=2, retry_backoff_ms=1_000), [lab.worker(name=f"w{n}") for n in range(4)]
    trainer.enqueue(Task(id="t"))
    for tries in (0, 1):
        for worker in workers[:3]:
            assert lab.row("t").state == "pending"
            (attempt,) = worker.claim()
            assert attempt.tries == tries
            answer = worker.fail(attempt, "no engine", "worker").answer
        lab.pass_ms(1_000)
        trainer.requeue()
    assert (answer, lab.row("t").state, lab.row("t").reason) == ("failed", "dead", "no engine")


def test_faults_of_one_worker_never_count(lab: Lab):
    """Its engine may be down for as long as it likes. Mutant: faults_of_one_worker_count."""
    trainer, worker, other = lab.trainer(max_attempts=1), lab.worker(name="w1"), lab.worker(name="w2")
    trainer.enqueue(Task(id="t"))
    for _ in range(6):
        (attempt,) = worker.claim()
        assert (attempt.tries, worker.fail(attempt, "no engine", "worker").answer) == (0, "retried")
        lab.pass_ms(60_000)
        worker.renew()
    other.submit(other.claim()[0], b"x")
    assert lab.states() == {"t": "ready"}


def test_a_worker_gets_what_it_failed_at_again_after_a_pause(lab: Lab):
    """So the only worker of a run is not locked out. Mutant: a_faulty_worker_is_barred_for_ever."""
    trainer, worker = lab.trainer(retry_backoff_ms=1_500, retry_backoff_max_ms=2_000), lab.worker()
    trainer.enqueue(Task(id="t"))
    for pause_ms in (1_500, 2_000, 2_000):
        worker.fail(worker.claim()[0], "no engine", "worker")
        lab.pass_ms(pause_ms - 1)
        assert worker.claim() == []
        lab.pass_ms(1)
    assert worker.claim()


def test_the_pause_is_a_second_where_retries_have_none(lab: Lab):
    trainer, worker = lab.trainer(retry_backoff_ms=0), lab.worker()
    trainer.enqueue(Task(id="t"))
    worker.fail(worker.claim()[0], "no engine", "worker")
    lab.pass_ms(999)
    assert worker.claim() == []
    lab.pass_ms(1)
    assert worker.claim()


def test_a_worker_that_failed_at_the_first_tasks_gets_the_next_ones(lab: Lab):
    """Mutant: a_faulty_worker_reads_one_page."""
    trainer, worker = lab.trainer(consumer_batch_size=64), lab.worker()
    trainer.enqueue(tasks(10))
    failed = worker.claim(6)
    for attempt in failed:
        worker.fail(attempt, "no engine", "worker")
    assert [attempt.task for attempt in worker.claim(2)] == ["t6", "t7"]
    assert [attempt.task for attempt in worker.claim(3)] == ["t8", "t9"]
    assert worker.claim_reason == "faulted"


def test_of_a_group_a_worker_gets_the_slots_that_it_did_not_fail_at(lab: Lab):
    """Mutant: a_faulty_worker_is_barred_from_the_group."""
    trainer, worker, other = lab.trainer(), lab.worker(name="w1"), lab.worker(name="w2")
    trainer.enqueue(Task(id="t", samples=3))
    first, second = worker.claim(2)
    worker.fail(first, "no engine", "worker")
    assert [attempt.slot for attempt in worker.claim(3)] == [2]
    assert [attempt.slot for attempt in other.claim(3)] == [0]
    worker.submit(second, b"x")


def test_work_that_one_worker_failed_at_wakes_another(lab: Lab):
    """Mutant: a_faulty_worker_keeps_the_marker."""
    trainer, worker = lab.trainer(), lab.worker()
    trainer.enqueue(Task(id="t"))
    worker.fail(worker.claim()[0], "no engine", "worker")
    lab.unmark()
    assert worker.claim() == []
    assert lab.marked()


def test_faults_and_errors_are_forgotten_with_the_task(lab: Lab):
    """Mutants: faults_outlive_the_task, an_error_outlives_a_retry, the_error_of_a_ready_task_stays."""
    trainer = lab.trainer(consumer_batch_size=2, max_attempts=1, halt_after_failures=0)
    first, second = lab.worker(name="w1"), lab.worker(name="w2")
    trainer.enqueue(tasks(2))
    for worker in (first, second):
        for attempt in worker.claim(2):
            worker.fail(attempt, "no engine", "worker")
    third = lab.worker(name="w3")
    died, lived = third.claim(2)
    third.submit(lived, b"x")
    assert (lab.row("t1").state, lab.row("t1").last_failure) == ("ready", None)
    third.fail(died, "boom")
    assert lab.row("t0").state == "dead"
    assert "faults" not in lab.dump()
    trainer.retry(["t0"])
    assert lab.row("t0").last_failure is None
    assert first.claim()


@pytest.mark.parametrize("options", [{"kind": "wrker"}, {"kind": "worker", "retry": False}], ids=str)
def test_a_kind_that_makes_no_sense_is_refused(lab: Lab, options: dict[str, Any]):
    trainer, worker = lab.trainer(), lab.worker()
    trainer.enqueue(Task(id="t"))
    (attempt,) = worker.claim()
    with pytest.raises(BadArgument):
        worker.fail(attempt, "no engine", **options)
    assert lab.row("t").state == "running"


def _raise(error: BaseException) -> Any:
    raise error


def in_threads(lab: Lab, handlers: dict[str, Callable[[Attempt], Any]], until: Callable[[], bool]) -> None:
    """A worker with threads for each handler, until it is so."""
    workers = [Worker(lab.url, lab.run, name=name) for name in handlers]
    running = [InThread(lambda w=worker: w.run(handlers[w.name])) for worker in workers]
    try:
        wait_until(until, "the workers are done")
    finally:
        for worker in workers:
            worker.drain()
        for each in running:
            each.result()
        for worker in workers:
            worker.close()


def in_asyncio(lab: Lab, handlers: dict[str, Callable[[Attempt], Any]], until: Callable[[], bool]) -> None:
    """The same with workers for asyncio."""

    async def one(name: str) -> None:
        async def handler(attempt: Attempt) -> Any:
            return await asyncio.to_thread(handlers[name], attempt)

        async with aio.Worker(lab.url, lab.run, name=name) as worker:
            working = asyncio.create_task(worker.run(handler))
            while not until():
                await asyncio.sleep(0.01)
            worker.drain()
            await working

    async def main() -> None:
        async with asyncio.timeout(30):
            await asyncio.gather(*map(one, handlers))

    asyncio.run(main())


BOTH = pytest.mark.parametrize("work", [in_threads, in_asyncio], ids=["threads", "asyncio"])


@BOTH
def test_a_handler_that_raises_worker_fault_leaves_the_task_to_another_worker(lab: Lab, work: Any):
    lab.go_live()
    # When both have failed once, either may come first after the pause. Without backoff that pause stays a second.
    trainer = lab.trainer(max_attempts=1, retry_backoff_ms=0)
    trainer.enqueue(Task(id="t"))
    met = threading.Event()

    def broken(_: Attempt) -> Any:
        met.set()
        raise WorkerFault("the engine is down")

    def working(attempt: Attempt) -> Any:
        return b"x" if met.is_set() else _raise(WorkerFault("not yet"))

    work(lab, {"w1": broken, "w2": working}, lambda: lab.stat("n_ready") == 1)
    assert lab.stat("n_dead") == 0


@BOTH
def test_the_only_worker_tries_again_by_itself(lab: Lab, work: Any):
    lab.go_live()
    trainer, calls = lab.trainer(max_attempts=1), list[str]()
    trainer.enqueue(Task(id="t"))

    def recovers(attempt: Attempt) -> Any:
        calls.append(attempt.id)
        return b"x" if len(calls) > 1 else _raise(WorkerFault("the engine starts"))

    work(lab, {"w1": recovers}, lambda: lab.stat("n_ready") == 1)
    assert len(calls) == 2


# -- what is kept of a failure ---------------------------------------------------------------------------------------


def _fails_deep(attempt: Attempt) -> Any:
    try:
        return {}["tokens"]
    except KeyError as error:
        raise ValueError(f"no reward for {attempt.task}") from error


@BOTH
def test_the_traceback_of_a_handler_is_kept(lab: Lab, work: Any):
    """Mutant: no_trace_is_stored."""
    lab.go_live()
    trainer = lab.trainer(max_attempts=1)
    trainer.enqueue(Task(id="t"))
    work(lab, {"w1": _fails_deep}, lambda: lab.stat("n_dead") == 1)
    failure = lab.row("t").last_failure
    assert failure is not None
    assert (failure.kind, failure.message) == ("task", "ValueError('no reward for t')")
    assert failure.attempt_id == lab.row("t").slots[0].attempt_id
    assert "KeyError: 'tokens'" in failure.trace
    assert "in _fails_deep" in failure.trace
    assert failure.trace.rstrip().endswith("ValueError: no reward for t")


def test_of_a_long_traceback_the_end_is_kept(lab: Lab):
    trainer, worker = lab.trainer(max_attempts=1), lab.worker()
    trainer.enqueue(Task(id="t"))
    (attempt,) = worker.claim()
    try:
        _raise(ValueError("é" * 10_000 + " the end"))
    except ValueError as error:
        worker.fail(attempt, error)
    failure = lab.row("t").last_failure
    assert failure is not None
    assert failure.trace.rstrip().endswith("the end")
    assert TRACE_BYTES - 10 < len(failure.trace.encode()) <= TRACE_BYTES


def test_words_have_no_traceback(lab: Lab):
    trainer, worker = lab.trainer(max_attempts=1), lab.worker()
    trainer.enqueue(Task(id="t"))
    worker.fail(worker.claim()[0], "boom")
    failure = lab.row("t").last_failure
    assert failure is not None
    assert (failure.message, failure.trace) == ("boom", "")


class Unspeakable(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no words")

    __repr__ = __str__


def test_an_error_that_cannot_be_shown_is_reported_all_the_same(lab: Lab):
    trainer, worker = lab.trainer(max_attempts=1), lab.worker()
    trainer.enqueue(Task(id="t"))
    (attempt,) = worker.claim()
    try:
        _raise(Unspeakable())
    except Unspeakable as error:
        assert worker.fail(attempt, error).answer == "failed"
    assert lab.row("t").state == "dead"


def test_exhausted_counts_the_dead(lab: Lab):
    trainer, worker = lab.trainer(consumer_batch_size=2, max_attempts=1), lab.worker()
    trainer.enqueue(tasks(3))
    for attempt in worker.claim(2):
        worker.fail(attempt, "no reward")
    with pytest.raises(Exhausted, match=r"2 tasks are dead.*no reward"):
        trainer.next_batch(timeout=5)
