"""`Trainer.finish`: the run is over. Workers and attached ranks end by themselves, until somebody opens it again."""

import asyncio
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from broker import Exhausted, RunFinished, Task, Trainer, Worker, aio
from broker.errors import ConfigMismatch, Recovering
from broker.operator import Operator
from broker.protocol import admission, anyone, recovery
from broker.protocol import trainer as calls
from tests.conformance.lab import Lab, RawTrainer, names_of, run_one, tasks
from tests.threads import InThread, LoopThread
from tests.waiting import wait_until


def finished_lab(lab: Lab, n: int = 3, **fields: Any) -> tuple[Trainer, Worker]:
    """A finished run of n tasks, one of them held."""
    trainer, worker = lab.trainer(max_concurrent_rollouts=9, max_staleness=None, **fields), lab.worker()
    trainer.enqueue(tasks(n))
    worker.claim()
    assert trainer.finish() == n
    return trainer, worker


def test_a_finished_run_hands_out_nothing_and_takes_results(lab: Lab):
    """Mutants: claims_of_a_finished_run_go_on."""
    trainer, worker = finished_lab(lab)
    assert (worker.claim(9), worker.claim_reason) == ([], "finished")
    assert worker.submit(worker.held[0], b"x").answer == "accepted"
    stats = trainer.stats()
    assert (stats.finished, stats.pending, stats.ready) == (True, 2, 1)
    assert trainer.finish() == 3, "again, it says the same"
    assert lab.kinds().count("finish") == 1


def test_finished_is_said_before_halted_and_paused(lab: Lab):
    trainer, worker = finished_lab(lab, halt_after_failures=1)
    trainer.pause()
    assert (worker.claim(), worker.claim_reason) == ([], "finished")


def test_next_batch_of_a_finished_run_says_so(lab: Lab):
    """No batch is formed, although enough is ready: attached ranks were told that none will be.

    Mutants: batches_of_a_finished_run_are_formed.
    """
    trainer, worker = lab.trainer(max_concurrent_rollouts=9, max_staleness=None), lab.worker()
    trainer.enqueue(tasks(2))
    run_one(worker), run_one(worker)
    trainer.finish()
    with pytest.raises(RunFinished, match="the run is finished: the batch of step 0 will not be formed") as caught:
        trainer.next_batch(timeout=5)
    assert isinstance(caught.value, Exhausted), "loops that end when nothing is left end here"
    with pytest.raises(RunFinished):
        trainer.next_batch(timeout=5, accept=lambda _: True)


def test_a_sealed_batch_is_still_trained(lab: Lab, tmp_path: Path):
    trainer, worker = lab.trainer(), lab.worker()
    trainer.enqueue(tasks(2))
    run_one(worker)
    batch = trainer.next_batch(timeout=5)
    trainer.finish()
    assert names_of(trainer.next_batch(timeout=5)) == names_of(batch) == ["t0"]
    assert names_of(lab.trainer(attach=True).read_batch(0, timeout=5)) == ["t0"]
    assert trainer.advance() == 1
    assert trainer.checkpoint(tmp_path / "c.json").version == 1


def test_a_waiting_trainer_is_told_at_once(lab: Lab):
    """Mutant: finish_wakes_no_trainer."""
    trainer = lab.raw_trainer()
    trainer.enqueue("t")
    trainer.take(0, 1)
    lab.unmark("wake:ready")
    lab.call(calls.finish, calls.operator_call_id("r"))
    assert lab.marked("wake:ready")


@pytest.mark.parametrize("flavour", ["sync", "aio"])
def test_a_loop_over_batches_ends(lab: Lab, flavour: str):
    lab.go_live()
    trainer, worker = lab.trainer(), lab.worker()
    trainer.enqueue(tasks(3))
    run_one(worker)
    trained: list[str] = []

    def sync() -> None:
        for batch in trainer.batches(timeout=20):
            trained.extend(names_of(batch))

    async def asynchronous() -> None:
        async with aio.Trainer(lab.url, lab.run) as another:
            async for batch in another.batches(timeout=20):
                trained.extend(names_of(batch))

    thread = LoopThread() if flavour == "aio" else None
    looping = InThread(sync if thread is None else lambda: thread.do(asynchronous()))
    wait_until(lambda: trained == ["t0"] and lab.stat("want") > 0, "the trainer waits for the second batch")
    with Operator(lab.url) as operator:
        assert operator.finish(lab.run) == 2
    looping.result()
    if thread is not None:
        thread.close()


def test_an_attached_rank_that_waits_is_told(lab: Lab):
    """Mutant: ranks_wait_for_a_batch_of_a_finished_run."""
    lab.go_live()
    trainer, rank = lab.trainer(), lab.trainer(attach=True)
    waiting = InThread(lambda: rank.read_batch(0, timeout=20))
    trainer.finish()
    with pytest.raises(RunFinished):
        waiting.result()
    with pytest.raises(RunFinished):
        rank.read_batch(1, timeout=20)


def loops(flavour: str) -> list[Callable[[Any], Any]]:
    """Each loop of a worker, over tasks that it submits."""

    def one_by_one(worker: Worker) -> None:
        for attempt in worker:
            worker.submit(attempt, b"x")

    def in_batches(worker: Worker) -> None:
        for batch in worker.batches(2):
            worker.submit_many([(attempt, b"x") for attempt in batch])

    def handler(worker: Worker) -> None:
        worker.run(lambda _: b"x", 2)

    async def aio_one_by_one(worker: aio.Worker) -> None:
        async for attempt in worker:
            await worker.submit(attempt, b"x")

    async def aio_in_batches(worker: aio.Worker) -> None:
        async for batch in worker.batches(2):
            await worker.submit_many([(attempt, b"x") for attempt in batch])

    async def aio_handler(worker: aio.Worker) -> None:
        await worker.run(lambda _: asyncio.sleep(0, b"x"), 2)

    return [one_by_one, in_batches, handler] if flavour == "sync" else [aio_one_by_one, aio_in_batches, aio_handler]


@pytest.mark.parametrize("which", range(3))
@pytest.mark.parametrize("flavour", ["sync", "aio"])
def test_the_loops_of_all_workers_end_by_themselves(lab: Lab, flavour: str, which: int):
    """Several wait on one marker: each passes it on. Mutants: one_worker_is_told_that_the_run_is_finished, finish_wakes_nobody."""
    lab.go_live()
    trainer = lab.trainer(max_concurrent_rollouts=99, max_staleness=None)
    trainer.enqueue(tasks(5))
    loop = loops(flavour)[which]

    def work(name: str) -> None:
        if flavour == "sync":
            with Worker(lab.url, lab.run, name=name) as worker:
                loop(worker)
            return

        async def main() -> None:
            async with aio.Worker(lab.url, lab.run, name=name) as worker:
                await loop(worker)

        asyncio.run(main())

    working = [InThread(lambda name=f"w{i}": work(name)) for i in range(3)]
    wait_until(lambda: lab.stat("n_ready") == 5 and lab.stat("n_sessions") == 3, "all is done, and all workers wait")
    trainer.pause()  # a pause keeps nobody from being told
    trainer.finish()
    for one in working:
        one.result()
    assert lab.stat("n_sessions") == 0


@pytest.mark.parametrize("flavour", ["sync", "aio"])
def test_a_later_worker_ends_at_once_with_a_word(lab: Lab, flavour: str, caplog: pytest.LogCaptureFixture):
    lab.go_live()
    trainer = lab.trainer()
    trainer.enqueue(tasks(1))
    trainer.finish()
    caplog.set_level(logging.INFO, "broker")
    if flavour == "sync":
        with Worker(lab.url, lab.run, name="late") as worker:
            assert list(worker) == []
            assert worker.claim(timeout=None) == []
            trainer.enqueue([])
            trainer.enqueue(tasks(1, "u"))
            assert next(iter(worker)).task == "t0", "a new loop asks again"
    else:

        async def main() -> None:
            async with aio.Worker(lab.url, lab.run, name="late") as worker:
                await worker.run(lambda _: asyncio.sleep(0), 2)
                assert await worker.claim(timeout=None) == []
                trainer.enqueue(tasks(1, "u"))
                async for attempt in worker:
                    assert attempt.task == "t0"
                    break

        asyncio.run(main())
    told = [(one.levelname, one.getMessage()) for one in caplog.records if "nothing more to do" in one.getMessage()]
    assert told == [("WARNING", f"worker late has nothing more to do: run {lab.run} is finished")]


def test_a_worker_finishes_what_it_has(lab: Lab):
    """`run` hands in what its handlers work on as the run is finished."""
    lab.go_live()
    trainer, done = lab.trainer(consumer_batch_size=2), InThread
    trainer.enqueue(tasks(2))
    with Worker(lab.url, lab.run) as worker:

        def handler(_: Any) -> bytes:
            if not trainer.stats().finished:
                trainer.finish()
            return b"x"

        done(lambda: worker.run(handler, 1)).result()
    assert (trainer.stats().ready, trainer.stats().pending) == (1, 1)


def test_a_worker_of_two_runs_goes_on_with_the_other(lab: Lab):
    lab.go_live()
    other = f"{lab.run}/eval"
    trainer, evaluator = lab.trainer(), lab.trainer(run=other)
    done: list[str] = []
    with Worker(lab.url, [lab.run, other]) as worker:
        working = InThread(lambda: worker.run(lambda attempt: done.append(attempt.task) or b"x"))
        trainer.finish()
        evaluator.enqueue(tasks(1, "e"))
        wait_until(lambda: done == ["e0"], "the worker goes on with the other run")
        trainer.enqueue(tasks(1))
        wait_until(lambda: done == ["e0", "t0"], "it finds a run that was opened again")
        trainer.finish()
        evaluator.finish()
        working.result()


def opened_by_enqueue(lab: Lab, trainer: Trainer) -> None:
    trainer.enqueue(tasks(1, "u"))


def opened_by_old_tasks(lab: Lab, trainer: Trainer) -> None:
    trainer.enqueue(tasks(1))


def opened_by_feed(lab: Lab, trainer: Trainer) -> None:
    trainer.feed(iter(()))


def opened_by_retry(lab: Lab, trainer: Trainer) -> None:
    with Operator(lab.url) as operator:
        operator.cancel(lab.run, ["t2"])
        assert operator.retry(lab.run, ["t1"]) == {"t1": "pending"}
        assert trainer.stats().finished, "nothing was started over"
        operator.retry(lab.run, ["t2"])


def opened_by_recovery(lab: Lab, trainer: Trainer) -> None:
    trainer.recover(version=0)


@pytest.mark.parametrize(
    "how", [opened_by_enqueue, opened_by_old_tasks, opened_by_feed, opened_by_retry, opened_by_recovery]
)
def test_whoever_brings_tasks_opens_the_run_again(lab: Lab, how: Callable[[Lab, Trainer], None]):
    """Mutants: an_enqueue_leaves_the_run_finished and others with `finished` in their names."""
    trainer, worker = finished_lab(lab)
    lab.unmark()
    how(lab, trainer)
    assert not trainer.stats().finished
    assert lab.marked(), "workers that wait are told"
    assert worker.claim()
    assert (how is opened_by_recovery) or "reopen" in lab.kinds()


def test_open_close_and_resume_leave_a_run_finished(lab: Lab):
    """Closing a trainer does not finish a run, and opening one does not open it again."""
    trainer, worker = lab.trainer(), lab.worker()
    trainer.enqueue(tasks(1))
    trainer.close()
    another = lab.trainer(reopen=True)
    assert not another.stats().finished
    another.finish()
    again = lab.trainer(reopen=True)
    again.resume()
    assert again.stats().finished
    assert (worker.claim(), worker.claim_reason) == ([], "finished")


def test_a_feeder_at_work_does_not_open_what_an_operator_finished(lab: Lab):
    """Mutant: a_feeder_at_work_opens_a_finished_run."""
    trainer = lab.raw_trainer()
    trainer.send(calls.enqueue, [], supply="begin")
    assert lab.call(calls.finish, calls.operator_call_id("r")).left == 0
    trainer.send(calls.enqueue, [calls.NewTask("a", b"")], supply="more")
    trainer.send(calls.enqueue, [calls.NewTask("b", b"")], supply="done")
    assert lab.call(anyone.stats)["finished"]
    assert lab.stat("n_pending") == 2
    trainer.send(calls.enqueue, [], supply="begin")
    assert lab.call(calls.finish, calls.operator_call_id("s")).waiting == 2


def test_large_pieces_of_a_feeder_do_not_open_it_either(lab: Lab):
    """A piece may be several calls."""
    lab.go_live()
    trainer = lab.trainer(consumer_batch_size=4)
    payloads = (bytes([i]) * 3_000_000 for i in range(9))
    trainer.feed((Task(id=f"t{i}", payload=payload) for i, payload in enumerate(payloads)), ahead=20)
    with Operator(lab.url) as operator:
        operator.finish(lab.run)
    wait_until(lambda: lab.stat("n_pending") == 9, "the feeder has brought all")
    assert trainer.stats().finished


def test_finish_stops_the_feeder_of_its_trainer(lab: Lab):
    lab.go_live()
    trainer = lab.trainer(consumer_batch_size=1)
    drawn: list[int] = []

    def rows() -> Any:
        for i in range(100):
            drawn.append(i)
            yield Task(id=f"t{i}")

    trainer.feed(rows(), ahead=2)
    wait_until(lambda: lab.stat("n_pending") == 2, "the feeder waits")
    assert trainer.finish() == 2
    trainer.cancel(["t0", "t1"])
    trainer.feed(rows(), ahead=2)  # goes on where the cursor is
    wait_until(lambda: lab.states().get("t3") == "pending", "the next feeder goes on")
    assert not trainer.stats().finished


def test_the_feeder_that_is_gone_is_not_waited_for(lab: Lab):
    """Mutant: finish_leaves_the_supply."""
    trainer = lab.raw_trainer(consumer_batch_size=2)
    trainer.send(calls.enqueue, [], supply="begin")
    trainer.send(calls.finish)
    trainer.enqueue("a")
    assert trainer.take(0, 2).exhausted


def test_finish_is_refused_during_a_recovery_and_for_admission(lab: Lab):
    trainer: RawTrainer = lab.raw_trainer()
    token = "recovering0"
    lab.call(recovery.begin, token, recovery.Begin(0), None)
    with pytest.raises(Recovering):
        lab.call(calls.finish, calls.trainer_call_id(token, 1))
    lab.call(recovery.end, calls.trainer_call_id(token, 2))
    assert trainer.opened.epoch
    lab.checks_state = False
    run = f"{lab.run}/areal"
    lab.runs.add(run)
    fields = {"consumer_batch_size": "4"}
    lab.do(admission.open_owner(run, "o", 5_000, "token123", fields, admission.Counted(), now=lab.now))
    with pytest.raises(ConfigMismatch):
        lab.do(calls.finish(run, calls.operator_call_id("r"), now=lab.now))
