"""The breaker: failures of many tasks without a result between them halt the run, and cost no task anything."""

import asyncio
from pathlib import Path
from typing import Any

import pytest

from broker import Attempt, Exhausted, RunHalted, Task, Trainer, WaitTimeout, Worker, aio
from broker.operator import Operator
from broker.protocol import trainer as calls
from tests.conformance.lab import Lab, tasks
from tests.threads import InThread
from tests.waiting import wait_until


def fail_all(worker: Worker, n: int, error: str = "boom", **options: Any) -> list[str]:
    """Claims up to n attempts and fails them; their tasks."""
    attempts = worker.claim(n)
    for attempt in attempts:
        worker.fail(attempt, error, **options)
    return [attempt.task for attempt in attempts]


def halted_lab(lab: Lab, n: int = 3, **fields: Any) -> tuple[Trainer, Worker]:
    """A run of n tasks, halted by a failure of each; they are due 2 s after a resume."""
    trainer = lab.trainer(
        **{"consumer_batch_size": n, "retry_backoff_max_ms": 2_000, "halt_after_failures": n, **fields}
    )
    worker = lab.worker()
    trainer.enqueue(tasks(n))
    fail_all(worker, n)
    assert trainer.stats().halted == n
    return trainer, worker


def test_so_many_failures_of_different_tasks_halt_the_run(lab: Lab):
    """Mutants: nothing_halts, claims_of_a_halted_run_go_on."""
    trainer, worker = lab.trainer(consumer_batch_size=64, halt_after_failures=4), lab.worker()
    trainer.enqueue(tasks(20))
    fail_all(worker, 3)
    assert (trainer.stats().halted, worker.claim_reason) == (0, "")
    fail_all(worker, 1)
    assert (worker.claim(), worker.claim_reason) == ([], "halted")
    stats = trainer.stats()
    assert (stats.halted, stats.totals["halts"]) == (4, 1)


@pytest.mark.parametrize("max_attempts", [1, 3])
def test_a_handler_that_fails_every_task_of_a_small_run_halts_it(lab: Lab, max_attempts: int):
    """Mutant: only_the_threshold_halts."""
    trainer = lab.trainer(consumer_batch_size=3, max_attempts=max_attempts, retry_backoff_ms=0)
    worker = lab.worker()
    trainer.enqueue(tasks(3))
    for _ in range(3 * max_attempts):
        assert trainer.stats().halted == 0
        fail_all(worker, 1)
    assert (trainer.stats().halted, trainer.stats().dead, trainer.stats().pending) == (3, 0, 3)
    with pytest.raises(RunHalted):
        trainer.next_batch(timeout=5)


def test_workers_that_die_with_the_last_tasks_do_not_halt_the_run(lab: Lab):
    trainer = lab.trainer(consumer_batch_size=8, lease_ms=10_000)
    trainer.enqueue(tasks(2))
    for name in ("w1", "w2"):
        assert lab.worker(name=name).claim(1)
    lab.pass_ms(10_001)
    trainer.requeue()
    worker = lab.worker()
    assert trainer.stats().halted == 0
    assert [worker.submit(attempt, b"x").answer for attempt in worker.claim(2)] == ["accepted"] * 2
    assert (trainer.stats().halted, trainer.stats().dead, trainer.stats().ready) == (0, 0, 2)


def test_no_small_run_is_halted_while_a_task_is_left(lab: Lab):
    """Mutant: failures_halt_while_tasks_are_left."""
    trainer, worker = lab.trainer(consumer_batch_size=8, max_attempts=1), lab.worker()
    trainer.enqueue(tasks(3))
    fail_all(worker, 2)
    assert (trainer.stats().halted, trainer.stats().dead) == (0, 2)
    worker.submit(worker.claim()[0], b"x")
    with pytest.raises(Exhausted):
        trainer.next_batch(timeout=5)
    assert (trainer.stats().halted, trainer.stats().dead) == (0, 2)


def test_the_last_tasks_outlive_workers_that_die_again_and_again(lab: Lab):
    trainer = lab.trainer(consumer_batch_size=8, max_attempts=3, lease_ms=10_000)
    trainer.enqueue(tasks(6))
    for _ in range(4):
        if trainer.stats().halted:
            break
        for name in ("w1", "w2"):
            assert len(lab.worker(name=name).claim(3)) == 3
        lab.pass_ms(10_001)
        trainer.requeue()
    assert (trainer.stats().halted, trainer.stats().dead, trainer.stats().pending) == (2, 0, 6)


def test_a_poison_prompt_that_loses_all_tasks_with_one_worker_never_halts_a_run(lab: Lab):
    """Mutant: one_event_halts."""
    trainer = lab.trainer(consumer_batch_size=8, max_attempts=1, lease_ms=10_000)
    trainer.enqueue(tasks(2))
    for _ in range(3):
        lab.worker().claim(2)
        lab.pass_ms(10_001)
        trainer.requeue()
    assert trainer.stats().halted == 0


def test_a_feeder_that_has_more_is_waited_for(lab: Lab):
    """Slow data loaders leave few tasks at a time. Mutant: failures_halt_while_more_will_come."""
    trainer = lab.raw_trainer(consumer_batch_size=8, max_attempts=1)
    worker = lab.worker()
    trainer.send(calls.enqueue, [calls.NewTask("a", b""), calls.NewTask("b", b"")], supply="more")
    fail_all(worker, 2)
    assert not trainer.take(0, 8).halted
    assert lab.stat("n_dead") == 2
    trainer.send(calls.enqueue, [], supply="done")
    assert trainer.take(0, 8).halted
    assert (lab.stat("n_dead"), lab.stat("n_pending")) == (0, 2)


def test_what_died_lives_again_where_the_last_other_task_is_cancelled(lab: Lab):
    """Nothing fails then: the trainer is told by its next batch."""
    trainer, worker = lab.trainer(consumer_batch_size=8, max_attempts=1), lab.worker()
    trainer.enqueue(tasks(3))
    fail_all(worker, 2)
    trainer.cancel(["t2"])
    assert (trainer.stats().halted, trainer.stats().dead) == (0, 2)
    with pytest.raises(RunHalted):
        trainer.next_batch(timeout=5)
    assert (trainer.stats().dead, trainer.stats().pending) == (0, 2)


def test_one_dead_task_beside_tasks_that_were_cancelled_halts_nothing(lab: Lab):
    """Mutant: one_dead_task_halts."""
    trainer, worker = lab.trainer(consumer_batch_size=8, max_attempts=2, retry_backoff_ms=0), lab.worker()
    trainer.enqueue(tasks(2))
    fail_all(worker, 2)
    trainer.cancel(["t1"])
    fail_all(worker, 1)
    assert (trainer.stats().halted, trainer.stats().dead) == (0, 1)
    with pytest.raises(Exhausted):
        trainer.next_batch(timeout=5)


def test_an_accepted_result_ends_the_streak(lab: Lab):
    """Mutant: results_do_not_end_the_streak."""
    trainer, worker = lab.trainer(consumer_batch_size=64, halt_after_failures=3), lab.worker()
    trainer.enqueue(tasks(20))
    for _ in range(3):
        fail_all(worker, 2)
        worker.submit(worker.claim()[0], b"x")
    assert trainer.stats().halted == 0


@pytest.mark.parametrize("left", [1, 5])
def test_one_poison_prompt_never_halts_a_run(lab: Lab, left: int):
    """Mutants: each_failure_is_an_event, one_event_halts."""
    trainer = lab.trainer(consumer_batch_size=8, halt_after_failures=2, max_attempts=100, retry_backoff_ms=0)
    worker = lab.worker()
    trainer.enqueue(Task(id=f"t{n}", samples=3, priority=-n) for n in range(left))
    for _ in range(20):
        for attempt in worker.claim(3):
            assert attempt.task == "t0"
            worker.fail(attempt, "boom")
    assert trainer.stats().halted == 0


def test_nothing_halts_where_the_breaker_is_off(lab: Lab):
    """Mutant: the_breaker_cannot_be_off."""
    trainer, worker = lab.trainer(consumer_batch_size=64, halt_after_failures=0, max_attempts=1), lab.worker()
    trainer.enqueue(tasks(80))
    fail_all(worker, 64)
    assert (trainer.stats().halted, trainer.stats().dead) == (0, 64)


def test_what_died_of_the_streak_lives_again_in_its_old_place(lab: Lab):
    """Mutants: the_dead_of_a_streak_stay_dead, tries_of_a_streak_are_kept, a_resume_lets_the_failed_go_first."""
    trainer, worker = lab.trainer(consumer_batch_size=64, halt_after_failures=4, max_attempts=1), lab.worker()
    trainer.enqueue(tasks(6))
    fail_all(worker, 3)
    assert list(lab.states().values()).count("dead") == 3
    fail_all(worker, 1)
    assert (trainer.stats().dead, trainer.stats().pending) == (0, 6)
    assert trainer.resume() == "halted"
    assert [attempt.task for attempt in worker.claim(9)] == ["t4", "t5"]
    lab.pass_ms(60_000)
    worker.renew()
    again = worker.claim(9)
    assert [(attempt.task, attempt.tries) for attempt in again] == [(f"t{n}", 0) for n in range(4)]


def test_results_of_a_group_that_died_of_the_streak_are_made_again(lab: Lab):
    trainer, worker = lab.trainer(consumer_batch_size=4, max_attempts=1, retry_backoff_ms=0), lab.worker()
    trainer.enqueue([Task(id="t", samples=3, min_samples=2), Task(id="u"), Task(id="v")])
    done, *others = worker.claim(3)
    worker.submit(done, b"x")
    rejected, failed = others
    worker.reject(rejected, "no")
    worker.fail(failed, "boom")
    assert lab.row("t").state == "dead"
    fail_all(worker, 2)
    row = lab.row("t")
    assert (row.state, row.letters, row.errors) == ("pending", "OFO", 0)
    assert lab.result_keys() == set()


def test_a_failure_that_is_not_retried_is_given_back_too(lab: Lab):
    """A handler whose results can never be encoded is a bug of the handler, not of the data."""
    trainer, worker = lab.trainer(consumer_batch_size=3), lab.worker()
    trainer.enqueue(tasks(3))
    fail_all(worker, 3, retry=False)
    assert (trainer.stats().halted, trainer.stats().dead, trainer.stats().pending) == (3, 0, 3)


def test_a_halt_takes_no_verdict_back(lab: Lab):
    """A slot failed, was tried again, and was rejected: the failure is given back, the verdict stays.

    Mutant: a_verdict_is_taken_back.
    """
    trainer = lab.trainer(consumer_batch_size=9, halt_after_failures=2, retry_backoff_ms=0)
    trainer.enqueue([Task(id="t0", samples=2, min_samples=1), Task(id="t1")])
    worker = lab.worker()
    first, second, other = worker.claim(3)
    worker.fail(first, "boom")
    (again,) = worker.claim(1)
    assert (again.task, again.slot) == (first.task, first.slot) == ("t0", 0)
    worker.reject(again, "not a sum")
    worker.fail(other, "boom")
    assert trainer.stats().halted == 2
    worker.submit(second, b"x")
    assert lab.states()["t0"] == "ready"


def test_worker_faults_halt_too(lab: Lab):
    trainer, worker = lab.trainer(consumer_batch_size=3, halt_after_failures=3), lab.worker()
    trainer.enqueue(tasks(3))
    fail_all(worker, 3, kind="worker")
    assert trainer.stats().halted == 3


def test_a_session_that_dies_with_many_tasks_is_one_failure(lab: Lab):
    """Mutant: each_attempt_of_a_dead_session_is_an_event."""
    trainer = lab.trainer(consumer_batch_size=64, halt_after_failures=3, lease_ms=1_000)
    trainer.enqueue(tasks(30))
    for _ in range(4):
        assert trainer.stats().halted == 0
        assert len(lab.worker().claim(4)) == 4
        lab.pass_ms(1_001)
        trainer.requeue()
    # All four sessions had the same tasks, whose first loss took no try.
    assert trainer.stats().halted == 0
    assert len(lab.worker().claim(8) + lab.worker().claim(4)) == 12
    lab.pass_ms(1_001)
    trainer.requeue()
    assert trainer.stats().halted == 3


def test_while_a_run_is_halted_no_failure_costs_an_attempt(lab: Lab):
    """Mutant: failures_of_a_halted_run_cost_tries."""
    trainer = lab.trainer(consumer_batch_size=64, halt_after_failures=2, max_attempts=1, lease_ms=10_000)
    worker, silent = lab.worker(), lab.worker(name="silent")
    trainer.enqueue(tasks(6))
    held, lost = worker.claim(4), silent.claim(1)
    for attempt in held[:2]:
        worker.fail(attempt, "boom")
    assert trainer.stats().halted == 2
    assert worker.fail(held[2], "boom", retry=False).answer == "retried"
    lab.pass_ms(10_001)
    trainer.requeue()
    assert lost
    assert (trainer.stats().dead, trainer.stats().pending) == (0, 6)
    assert {slot.tries for name in lab.states() for slot in lab.row(name).slots} == {0}


def test_results_still_count_while_a_run_is_halted(lab: Lab):
    trainer, worker = lab.trainer(consumer_batch_size=4, halt_after_failures=2), lab.worker()
    trainer.enqueue(tasks(4))
    held = worker.claim(4)
    for attempt in held[:2]:
        worker.fail(attempt, "boom")
    assert [worker.submit(attempt, b"x").answer for attempt in held[2:]] == ["accepted", "accepted"]
    assert (trainer.stats().halted, trainer.stats().ready) == (2, 2)


def test_next_batch_says_what_halted_the_run(lab: Lab):
    """Mutant: a_trainer_waits_in_a_halted_run."""
    trainer, worker = halted_lab(lab)
    with pytest.raises(RunHalted) as caught:
        trainer.next_batch(timeout=5)
    fields = caught.value.fields
    assert (fields["failures"], fields["workers"]) == (3, "w")
    assert "boom (task t" in fields["errors"]
    assert "broker resume" in str(caught.value)
    assert trainer.resume() == "halted"
    lab.pass_ms(2_000)
    for attempt in worker.claim(3):
        worker.submit(attempt, b"x")
    assert len(trainer.next_batch(timeout=5)) == 3


@pytest.mark.parametrize("short", [True, False])
def test_a_halted_run_is_not_exhausted(lab: Lab, short: bool):
    trainer, _ = halted_lab(lab)
    with pytest.raises(RunHalted):
        trainer.next_batch(timeout=5, short=short)


def test_a_waiting_trainer_is_told_at_once(lab: Lab):
    """Mutant: a_halt_wakes_no_trainer."""
    trainer, worker = lab.trainer(consumer_batch_size=3, halt_after_failures=3), lab.worker()
    trainer.enqueue(tasks(3))
    with pytest.raises(WaitTimeout):
        trainer.next_batch(timeout=0)
    fail_all(worker, 2)
    assert not lab.marked("wake:ready")
    fail_all(worker, 1)
    assert lab.marked("wake:ready")


def test_a_waiting_trainer_raises(lab: Lab):
    lab.go_live()
    trainer, worker = lab.trainer(consumer_batch_size=3, halt_after_failures=3), lab.worker()
    trainer.enqueue(tasks(3))
    waiting = InThread(lambda: trainer.next_batch(timeout=20))
    wait_until(lambda: lab.stat("want") > 0, "the trainer waits")
    fail_all(worker, 3)
    with pytest.raises(RunHalted):
        waiting.result()


def test_a_rank_that_waits_for_a_batch_is_told_once_the_trainer_waits_in_vain(lab: Lab):
    trainer, _ = halted_lab(lab)
    with Trainer(lab.url, lab.run, attach=True, clock=lab.clock) as rank:
        with pytest.raises(WaitTimeout):  # the trainer may still have enough for this batch
            rank.read_batch(0, 1, 2, timeout=0.05)
        with pytest.raises(RunHalted):
            trainer.next_batch(timeout=5)
        with pytest.raises(RunHalted) as caught:
            rank.read_batch(0, 1, 2, timeout=20)
        assert caught.value.fields["failures"] == 3
        trainer.resume()
        with pytest.raises(WaitTimeout):
            rank.read_batch(0, 1, 2, timeout=0.05)


def test_the_asyncio_trainer_is_told_and_resumes(lab: Lab):
    halted_lab(lab)

    async def main() -> None:
        async with aio.Trainer(lab.url, lab.run, clock=lab.clock) as trainer:
            with pytest.raises(RunHalted):
                await trainer.next_batch(timeout=5)
            assert await trainer.resume() == "halted"
            assert (await trainer.stats()).halted == 0

    asyncio.run(main())


def test_a_halt_survives_another_trainer_and_a_recovery(lab: Lab, tmp_path: Path):
    """Nothing ends it by the way."""
    trainer, worker = halted_lab(lab)
    trainer.checkpoint(tmp_path / "c.json")
    other = lab.trainer(reopen=True)
    assert other.stats().halted == 3
    other.recover(tmp_path / "c.json")
    assert other.stats().halted == 3
    assert (worker.claim(), worker.claim_reason) == ([], "halted")
    assert other.resume() == "halted"
    lab.pass_ms(2_000)
    worker.renew()
    assert len(worker.claim(3)) == 3


def test_a_checkpoint_lists_what_died_of_the_streak(lab: Lab, tmp_path: Path):
    """It may live again: a recovery must not take it for finished. Mutant (Python): lists only what a scan finds alive."""
    trainer, worker = lab.trainer(consumer_batch_size=64, max_attempts=1, halt_after_failures=4), lab.worker()
    trainer.enqueue(tasks(6))
    worker.submit(worker.claim()[0], b"x")
    fail_all(worker, 2)
    assert trainer.stats().dead == 2
    made = trainer.checkpoint(tmp_path / "c.json", full=True)
    assert made.unfinished == {f"t{n}" for n in range(6)}
    trainer.recover(tmp_path / "c.json")
    assert lab.states()["t1"] == "pending"


def test_a_checkpoint_after_a_result_does_not_list_the_dead(lab: Lab, tmp_path: Path):
    trainer, worker = lab.trainer(consumer_batch_size=64, max_attempts=1), lab.worker()
    trainer.enqueue(tasks(6))
    fail_all(worker, 2)
    worker.submit(worker.claim()[0], b"x")
    assert trainer.checkpoint(tmp_path / "c.json").unfinished == {f"t{n}" for n in range(2, 6)}


def test_trim_keeps_what_died_of_the_streak(lab: Lab):
    """Mutant: trim_frees_the_dead_of_a_streak."""
    trainer = lab.trainer(
        consumer_batch_size=64, max_attempts=1, max_finished=0, retention_steps=0, halt_after_failures=4
    )
    worker = lab.worker()
    trainer.enqueue(tasks(6))
    fail_all(worker, 2)
    trainer.advance(allow_empty=True)
    assert trainer.stats().dead == 2
    worker.submit(worker.claim()[0], b"x")
    trainer.advance(allow_empty=True)
    assert trainer.stats().dead == 0


def test_a_pause_and_a_halt_are_told_apart(lab: Lab):
    """Mutant: any_resume_ends_a_halt."""
    trainer, _ = halted_lab(lab)
    with Operator(lab.url) as operator:
        operator.pause(lab.run)
        assert operator.resume(lab.run) == "paused"
        assert trainer.stats().halted == 3
        operator.pause(lab.run, "draining")
        assert operator.resume(lab.run, halted=True) == "halted and draining"
        assert (trainer.stats().halted, trainer.stats().paused) == (0, "")
        assert operator.resume(lab.run, halted=True) == ""


def test_an_outage_costs_no_prompt(lab: Lab):
    """4,000 prompts (1,000 in fakeredis), the defaults but for the times; every handler raises for a while."""
    lab.go_live()
    n, batch, down = 4_000, 100, [True]
    trainer = lab.trainer(
        consumer_batch_size=batch, max_staleness=3, max_concurrent_rollouts=400, retry_backoff_max_ms=1_000
    )
    trainer.enqueue(tasks(n))

    def handler(attempt: Attempt) -> bytes:
        if down[0]:
            raise RuntimeError("the engine is down")
        return attempt.task.encode()

    async def work(name: str) -> None:
        async def handle(attempt: Attempt) -> bytes:
            await asyncio.sleep(0)
            return handler(attempt)

        async with aio.Worker(lab.url, lab.run, name=name) as worker:
            working = asyncio.create_task(worker.run(handle, concurrency=64))
            while trained_all is False:
                await asyncio.sleep(0.05)
            worker.drain()
            await working

    async def crowd() -> None:
        await asyncio.gather(*(work(f"w{number}") for number in range(3)))

    trained_all, trained, halts = False, list[str](), 0
    down[0] = False
    workers = InThread(lambda: asyncio.run(crowd()))
    try:
        while len(trained) < n:
            if len(trained) == 500 and not halts:
                down[0] = True  # the outage begins
            try:
                rollouts = trainer.next_batch(timeout=60)
            except RunHalted as error:
                assert "the engine is down" in str(error)
                halts += 1
                wait_until(lambda: lab.stat("running") == 0, "all that is under way has failed")
                down[0] = False  # somebody mended it
                trainer.resume()
                continue
            trained += [rollout.task for rollout in rollouts]
            trainer.advance()
    finally:
        trained_all = True
        workers.result()
    assert halts == 1
    assert sorted(trained) == sorted(task.id for task in tasks(n))
    assert lab.stat("n_dead") == 0
