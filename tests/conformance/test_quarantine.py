"""Quarantine: a worker that fails everything, while others succeed, gets no work for a while."""

import asyncio
import logging
import time
from typing import Any

import pytest

from broker import Attempt, RunConfig, RunHalted, Task, Trainer, Worker, aio
from broker.inspection.situation import situation
from broker.operator import Operator
from tests.conformance.lab import Lab, tasks
from tests.threads import InThread
from tests.waiting import wait_until

FIRST_MS = 2_000


def quarantined_lab(lab: Lab, n: int = 40, **fields: Any) -> tuple[Trainer, Worker, Worker]:
    """A run with a worker that works, and one that is quarantined after two failures."""
    config = {"consumer_batch_size": n, "retry_backoff_max_ms": FIRST_MS, "quarantine_after": 2, "lease_ms": 10**7}
    trainer = lab.trainer(**{**config, **fields})
    good, sick = lab.worker(name="good"), lab.worker(name="sick")
    trainer.enqueue(tasks(n))
    fail_and_succeed(good, sick, 2)
    return trainer, good, sick


def fail_and_succeed(good: Worker, sick: Worker, times: int) -> None:
    """The sick worker fails what it gets, and after each failure the good one succeeds."""
    for number in range(times):
        (attempt,) = sick.claim(1)
        if number:
            succeed(good)
        sick.fail(attempt, "no engine")


def succeed(worker: Worker) -> None:
    """The worker does one attempt."""
    (attempt,) = worker.claim(1)
    assert worker.submit(attempt, b"x").accepted


def reason(worker: Worker, n: int = 1) -> tuple[int, str]:
    """How many attempts a claim gets, and why not more."""
    return len(worker.claim(n)), worker.claim_reason


def test_a_worker_that_fails_everything_while_others_succeed_gets_no_work(lab: Lab):
    """Mutants: nobody_is_quarantined, one_quarantined_session_halts."""
    trainer, good, sick = quarantined_lab(lab)
    assert reason(sick) == (0, "quarantined")
    stats = trainer.stats()
    assert (stats.quarantined, list(stats.quarantine.values())) == (1, [FIRST_MS / 1000])
    assert stats.halted == 0
    assert stats.totals["quarantines"] == 1
    succeed(good)
    lab.pass_ms(FIRST_MS)
    assert len(sick.claim(1)) == 1
    assert trainer.stats().quarantined == 0


def test_an_audit_counts_the_sessions_that_failed(lab: Lab):
    """Mutant: an_audit_trusts_the_number_of_sessions_that_failed."""
    trainer, _, sick = quarantined_lab(lab)
    lab.command("HSET", lab.key("state"), "ailing", 0)
    assert reason(sick) == (1, "")
    assert trainer.audit(repair=True).drift == {"ailing": (0, 1)}
    assert reason(sick) == (0, "quarantined")


def test_a_worker_is_not_quarantined_where_nobody_else_succeeds(lab: Lab):
    """Mutant: failures_quarantine_without_results_of_others."""
    trainer, sick = lab.trainer(consumer_batch_size=40, quarantine_after=2), lab.worker()
    trainer.enqueue(tasks(9))
    succeed(sick)
    for _ in range(4):
        sick.fail(sick.claim(1)[0], "boom")
    assert trainer.stats().quarantined == 0


def test_a_result_of_its_own_or_a_verdict_ends_the_count(lab: Lab):
    trainer = lab.trainer(consumer_batch_size=40, quarantine_after=2)
    good, worker = lab.worker(name="good"), lab.worker(name="w")
    trainer.enqueue(tasks(20))
    for end in ("accept", "reject", "accept"):
        fail_and_succeed(good, worker, 1)
        succeed(good)
        (attempt,) = worker.claim(1)
        (worker.submit(attempt, b"x") if end == "accept" else worker.reject(attempt, "no"))
    fail_and_succeed(good, worker, 1)
    assert trainer.stats().quarantined == 0


def test_one_task_that_fails_often_quarantines_nobody(lab: Lab):
    """Mutant: failures_of_one_task_quarantine."""
    trainer = lab.trainer(consumer_batch_size=40, quarantine_after=2, max_attempts=100)
    good, worker = lab.worker(name="good"), lab.worker(name="w")
    trainer.enqueue([Task(id="poison", samples=8, priority=1), *tasks(9)])
    poison = worker.claim(8)
    for attempt in poison:
        succeed(good)
        worker.fail(attempt, "boom")
    assert {attempt.task for attempt in poison} == {"poison"}
    assert trainer.stats().quarantined == 0


def test_quarantine_is_off(lab: Lab):
    """Mutant: quarantine_cannot_be_off."""
    trainer, _, sick = quarantined_lab(lab, quarantine_after=0)
    assert len(sick.claim(1)) == 1
    assert trainer.stats().quarantined == 0
    assert not lab.command("EXISTS", lab.key("ailing"))


def test_failures_of_what_it_still_held_do_not_lengthen_it(lab: Lab):
    """Mutant: failures_in_quarantine_lengthen_it."""
    trainer = lab.trainer(consumer_batch_size=40, quarantine_after=2, retry_backoff_max_ms=FIRST_MS)
    good, sick = lab.worker(name="good"), lab.worker(name="sick")
    trainer.enqueue(tasks(9))
    held = sick.claim(5)
    for attempt in held:
        sick.fail(attempt, "boom")
        succeed(good) if attempt is held[0] else None
    assert list(trainer.stats().quarantine.values()) == [FIRST_MS / 1000]


def test_each_further_quarantine_is_twice_as_long_and_sixteen_times_the_first_at_most(lab: Lab):
    """Mutants: each_quarantine_is_as_short, quarantine_grows_without_bound,
    a_session_that_was_quarantined_needs_as_many_failures.
    """
    trainer, _, sick = quarantined_lab(lab, max_attempts=100)
    for times in (2, 4, 8, 16, 16):
        lab.pass_ms(int(next(iter(trainer.stats().quarantine.values())) * 1000))
        sick.fail(sick.claim(1)[0], "no engine")
        assert list(trainer.stats().quarantine.values()) == [times * FIRST_MS / 1000]


def test_after_quarantine_a_worker_gets_one_at_a_time_until_a_result_of_it_is_accepted(lab: Lab):
    """Mutant: after_quarantine_it_gets_all."""
    _, _, sick = quarantined_lab(lab)
    lab.pass_ms(FIRST_MS)
    (attempt,) = sick.claim(8)
    assert sick.claim_reason == "quarantined"
    assert reason(sick, 8) == (0, "quarantined")
    assert sick.submit(attempt, b"x").accepted
    assert len(sick.claim(8)) == 8


def test_a_time_out_of_an_attempt_is_a_failure_of_its_worker(lab: Lab):
    """An engine that hangs raises nothing."""
    trainer = lab.trainer(
        consumer_batch_size=40,
        quarantine_after=2,
        attempt_timeout_ms=1_000,
        lease_ms=10**7,
        retry_backoff_max_ms=FIRST_MS,
    )
    good, hung = lab.worker(name="good"), lab.worker(name="hung")
    trainer.enqueue(tasks(9))
    assert len(hung.claim(2)) == 2
    lab.pass_ms(500)
    held = good.claim(1)
    lab.pass_ms(500)
    assert good.submit(held[0], b"x").accepted
    trainer.requeue()
    assert trainer.stats().quarantined == 0  # nothing was accepted since the first of these failures
    lab.pass_ms(FIRST_MS)
    assert len(hung.claim(1)) == 1
    succeed(good)
    lab.pass_ms(1_000)
    trainer.requeue()
    assert [session.partition("~")[0] for session in trainer.stats().quarantine] == ["hung"]


def test_a_worker_that_joins_anew_begins_anew(lab: Lab):
    """A restart is how workers are mended. Mutant: an_ended_session_stays_quarantined."""
    trainer, _, sick = quarantined_lab(lab)
    sick.close()
    assert trainer.stats().quarantined == 0
    assert len(lab.worker(name="sick").claim(4)) == 4


def test_the_run_is_halted_when_all_workers_are_quarantined(lab: Lab):
    """Mutants: sessions_quarantined_together_do_not_halt, the_end_of_a_halt_ends_no_quarantine.

    Also nobody_is_named_whose_quarantine_halted.
    """
    trainer, good, sick = quarantined_lab(lab)
    held = good.claim(2)
    good.fail(held[0], "no engine")
    third = lab.worker(name="third")
    succeed(third)
    third.close()
    assert trainer.stats().halted == 0
    good.fail(held[1], "no engine")
    assert trainer.stats().quarantined == 2
    assert trainer.stats().halted == 1
    with pytest.raises(RunHalted, match="2 workers are quarantined, and no other is connected: good, sick; 1 attempt"):
        trainer.next_batch(timeout=5)
    assert "all its workers were quarantined: good and sick. The last error: no engine" in str(trainer.explain())
    lab.pass_ms(100_000)  # their quarantine passes, the halt stays
    assert [session.partition("~")[0] for session in trainer.stats().halted_by] == ["good", "sick"]
    assert trainer.resume() == "halted"
    assert (trainer.stats().quarantined, trainer.stats().halted_by) == (0, [])
    assert len(sick.claim(2)) == len(good.claim(2)) == 2, "not one at a time, as after a quarantine"


def test_an_operator_lets_it_out(lab: Lab):
    """Mutants: readmit_takes_only_sessions, readmit_takes_all."""
    lab.go_live()
    trainer, _, sick = quarantined_lab(lab, retry_backoff_max_ms=60_000)
    (session,) = trainer.stats().quarantine
    with Operator(lab.url) as operator:
        assert operator.readmit(lab.run, ["good", "nobody"]) == []
        assert reason(sick) == (0, "quarantined")
        assert operator.readmit(lab.run, "sick") == [session]
        assert operator.readmit(lab.run) == []
    assert len(sick.claim(4)) == 4


def test_explain_and_status_name_the_worker_and_how_long(lab: Lab):
    trainer, good, sick = quarantined_lab(lab)
    assert reason(sick) == (0, "quarantined")
    found = trainer.explain()
    assert found.stats.quarantined == 1
    assert situation(found).word != "quarantined"
    good.close()
    assert situation(trainer.explain()).word == "quarantined"
    assert "sick for 2.0 s" in situation(trainer.explain()).sentence


def test_a_quarantined_worker_leaves_the_marker_to_others(lab: Lab):
    trainer, _, sick = quarantined_lab(lab)
    lab.unmark("wake")
    assert reason(sick) == (0, "quarantined")
    assert lab.marked("wake")
    assert trainer.stats().capacity > 0


def test_a_stored_run_without_the_field_has_its_default(lab: Lab):
    trainer = lab.trainer(consumer_batch_size=4)
    lab.command("HDEL", lab.key("state"), "quarantine_after")
    assert trainer.stats().config.quarantine_after == RunConfig(consumer_batch_size=4).quarantine_after
    assert lab.trainer(consumer_batch_size=4).config.quarantine_after == 16


@pytest.mark.parametrize("flavour", ["blocking", "asyncio"])
def test_a_worker_in_quarantine_waits_says_so_once_and_goes_on(
    lab: Lab, flavour: str, caplog: pytest.LogCaptureFixture
):
    lab.go_live()
    n = 60
    trainer = lab.trainer(
        consumer_batch_size=n, quarantine_after=3, retry_backoff_max_ms=1_000, retry_backoff_ms=1, max_attempts=50
    )
    trainer.enqueue(tasks(n))
    is_broken = [True]
    done_by: list[str] = []

    def fails(attempt: Attempt) -> bytes:
        if is_broken[0]:
            raise RuntimeError("no engine")
        done_by.append("sick")
        return attempt.task.encode()

    def works(attempt: Attempt) -> bytes:
        time.sleep(0.05)
        return attempt.task.encode()

    async def afails(attempt: Attempt) -> bytes:
        return fails(attempt)

    async def main() -> None:
        async with aio.Worker(lab.url, lab.run, name="sick") as worker:
            working = asyncio.create_task(worker.run(afails, concurrency=4))
            while not is_over:
                await asyncio.sleep(0.02)
            worker.drain()
            await working

    is_over: list[bool] = []
    good = Worker(lab.url, lab.run, name="good")
    sick = Worker(lab.url, lab.run, name="sick") if flavour == "blocking" else None
    working = InThread(lambda: good.run(works))
    failing = InThread(lambda: sick.run(fails, concurrency=4) if sick is not None else asyncio.run(main()))
    try:
        with caplog.at_level(logging.WARNING, "broker"):
            wait_until(lambda: trainer.stats().quarantined == 1, "the sick worker is quarantined")
            wait_until(lambda: any("is quarantined" in each.getMessage() for each in caplog.records), "it says so")
            is_broken[0] = False
            wait_until(lambda: len(done_by) > 0, "it works again")
        assert len(trainer.next_batch(timeout=60)) == n
    finally:
        is_over.append(True)
        good.drain()
        if sick is not None:
            sick.drain()
        working.result()
        failing.result()
        good.close()
        if sick is not None:
            sick.close()
    said = [each.getMessage() for each in caplog.records if "is quarantined" in each.getMessage()]
    assert len(said) == 1
