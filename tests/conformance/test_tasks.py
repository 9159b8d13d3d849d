"""Tasks from enqueue to one of their three ends: consumed, dead, rejected."""

import pytest

from broker import Task
from broker.connections.sync import run_blocking
from broker.operator import Operator
from broker.protocol import trainer as calls
from tests.conformance.lab import Lab, names_of, run_one, tasks


def test_a_task_goes_through_its_states(lab: Lab):
    trainer, worker = lab.trainer(consumer_batch_size=1), lab.worker()
    seen = ["unknown"]

    trainer.enqueue(Task(id="t"))
    seen.append(lab.row("t").state)
    (attempt,) = worker.claim()
    seen.append(lab.row("t").state)
    worker.submit(attempt, 1)
    seen.append(lab.row("t").state)
    lab_trainer_take(lab, trainer)
    seen.append(lab.row("t").state)
    trainer.next_batch(timeout=1)
    seen.append(lab.row("t").state)
    trainer.advance()
    seen.append(lab.row("t").state)

    assert seen == ["unknown", "pending", "running", "ready", "batched", "sealed", "consumed"]


def lab_trainer_take(lab: Lab, trainer) -> None:
    """Fills the batch without sealing it, on the trainer's own channel."""
    numbered = trainer._state.numbered
    run_blocking(numbered.call(lambda call_id: calls.take(lab.run, call_id, 0, 1, limit=10, seal=False, now=lab.now)))


def test_enqueue_says_which_tasks_exist_in_whatever_state(lab: Lab):
    trainer, worker = lab.trainer(consumer_batch_size=1, max_staleness=5), lab.worker()
    names = ["consumed", "dead", "rejected", "ready", "running", "pending"]
    trainer.enqueue([Task(id="consumed")])
    run_one(worker)
    trainer.next_batch(timeout=1)
    trainer.advance()
    trainer.enqueue([Task(id=name) for name in names[1:5]])
    trainer.cancel(["rejected"])
    (attempt,) = worker.claim()
    worker.fail(attempt, "boom", retry=False)
    assert run_one(worker) == "ready"
    worker.claim()
    trainer.enqueue(Task(id="pending"))
    before = lab.states()
    assert before == {name: name for name in names}

    answer = trainer.enqueue([Task(id=name, payload="other", samples=3) for name in [*names, "new", "new"]])

    assert (answer.added, answer.existing) == (1, [*names, "new"])
    assert lab.states() == {**before, "new": "pending"}
    assert lab.row("pending").samples == 1


def test_any_number_of_tasks_is_sent_in_pieces(lab: Lab):
    trainer = lab.trainer(consumer_batch_size=1)
    sent = 0

    def source():
        nonlocal sent
        for i in range(300):
            sent += 1
            yield Task(id=f"t{i}", payload=b"x" * 1000)

    assert trainer.enqueue(source(), cursor={"row": 300}).added == 300
    assert sent == 300
    assert trainer.stats().pending == 300
    assert trainer.cursor == {"row": 300}


@pytest.mark.parametrize("cursor", [0, "", [], {"epoch": 2, "row": [1, 2]}, "text", 1.5, False])
def test_the_cursor_is_stored_with_the_tasks(lab: Lab, cursor: object):
    trainer = lab.trainer()
    trainer.enqueue(tasks(2), cursor=cursor)
    trainer.enqueue(tasks(1, "more"))
    again = lab.trainer(reopen=True)
    assert again.cursor == cursor
    again.enqueue([], cursor={"moved": True})
    assert lab.trainer(reopen=True).cursor == {"moved": True}


def test_higher_priority_first_then_order_of_enqueue(lab: Lab):
    trainer, worker = lab.trainer(consumer_batch_size=10), lab.worker()
    trainer.enqueue([Task(id="c"), Task(id="e", priority=-1000), Task(id="a", priority=1000), Task(id="d")])
    trainer.enqueue([Task(id="b", priority=1)])

    assert [attempt.task for attempt in worker.claim(10)] == ["a", "b", "c", "d", "e"]


def test_a_task_that_comes_back_keeps_its_place(lab: Lab):
    trainer, worker = lab.trainer(consumer_batch_size=10), lab.worker()
    trainer.enqueue(tasks(4))
    attempts = worker.claim(3)
    worker.release(attempts[2])
    worker.release(attempts[0])

    assert [attempt.task for attempt in worker.claim(10)] == ["t0", "t2", "t3"]


def test_a_task_that_comes_back_goes_on_counting_its_claims(lab: Lab):
    """A task that waits again has slots that were claimed before. Mutants: claims_count_anew_after_a_requeue."""
    trainer, worker = lab.raw_trainer(consumer_batch_size=9), lab.raw_worker()
    trainer.enqueue("t", samples=2)
    first = worker.claim(2, random="same").granted
    worker.release(*[one.attempt_id for one in first])
    second = worker.claim(2, random="same").granted
    assert [one.claims for one in second] == [2, 2]
    assert [worker.submit(one.attempt_id).word for one in first] == ["superseded"] * 2
    assert [worker.submit(one.attempt_id).word for one in second] == ["accepted"] * 2


def test_the_oldest_finished_by_first_claim_are_taken_first(lab: Lab):
    trainer, worker = lab.trainer(consumer_batch_size=2, max_staleness=5, max_concurrent_rollouts=10), lab.worker()
    trainer.enqueue(tasks(4))
    for attempt in reversed(worker.claim(4)):
        worker.submit(attempt, b"x")

    assert names_of(trainer.next_batch(timeout=1)) == ["t0", "t1"]


# -- retries -----------------------------------------------------------------------------------------------------------


def test_expiries_and_errors_both_count_towards_max_attempts(lab: Lab):
    trainer = lab.trainer(max_attempts=3, lease_ms=1_000, retry_backoff_ms=0)
    trainer.enqueue(Task(id="t"))
    for _ in range(2):
        lab.worker().claim()
        lab.pass_ms(1_000)
    worker = lab.worker()
    (attempt,) = worker.claim()
    assert attempt.tries == 2
    worker.fail(attempt, "at last")
    assert (lab.row("t").state, lab.row("t").reason) == ("dead", "at last")


def test_a_prompt_that_kills_its_workers_ends_dead(lab: Lab):
    trainer = lab.trainer(max_attempts=3, lease_ms=1_000)
    trainer.enqueue(Task(id="t"))
    for _ in range(3):
        assert lab.row("t").state in {"pending", "running"}
        lab.worker().claim()
        lab.pass_ms(1_000)
        trainer.requeue()
    row = lab.row("t")
    assert (row.state, row.reason, row.slots[0].tries, row.slots[0].why) == ("dead", "expired", 3, "expired")


def test_released_attempts_cost_no_try(lab: Lab):
    trainer, worker = lab.trainer(max_attempts=1), lab.worker()
    trainer.enqueue(Task(id="t"))
    for _ in range(3):
        (attempt,) = worker.claim()
        assert attempt.tries == 0
        assert [answer.answer for answer in worker.release(attempt)] == ["released"]
        assert lab.row("t").state == "pending"


# -- ends --------------------------------------------------------------------------------------------------------------


def test_dead_and_rejected_tasks_are_listed_with_their_reasons(lab: Lab):
    trainer, worker = lab.trainer(consumer_batch_size=5, retry_backoff_ms=0, max_attempts=1), lab.worker()
    trainer.enqueue(tasks(4))
    a, b, c, d = worker.claim(4)
    worker.fail(a, "no GPU: 100%\nsecond line")
    worker.fail(b, "ünïcode")
    worker.reject(c, "too long")
    worker.reject(d)
    with Operator(lab.url) as operator:
        dead = operator.dead(lab.run)
        rejected = operator.dead(lab.run, "rejected")
        assert len(operator.dead(lab.run, count=1)) == 1

    assert {one.id: one.reason for one in dead} == {"t0": "no GPU: 100%\nsecond line", "t1": "ünïcode"}
    assert {one.id: one.reason for one in rejected} == {"t2": "too long", "t3": "rejected"}
    assert {one.at_ms for one in [*dead, *rejected]} == {lab.now}
    assert (trainer.stats().dead, trainer.stats().rejected) == (2, 2)


def test_a_long_error_is_cut_and_still_reported(lab: Lab):
    trainer, worker = lab.trainer(consumer_batch_size=2, max_attempts=1), lab.worker()
    trainer.enqueue(tasks(2))
    a, b = worker.claim(2)
    assert worker.fail(a, "ä" * 5_000).answer == "failed"
    assert worker.reject(b, "ä" * 5_000).answer == "rejected"
    assert len(lab.row("t0").reason.encode()) <= 2_000
    assert lab.row("t1").state == "rejected"


@pytest.mark.parametrize("by", ["trainer", "operator"])
def test_finished_tasks_can_be_started_over(lab: Lab, by: str):
    trainer, worker = lab.trainer(consumer_batch_size=9, max_attempts=1, retry_backoff_ms=0), lab.worker()
    trainer.enqueue([Task(id="dead", samples=2), Task(id="rejected"), Task(id="running"), Task(id="ready")])
    first, second, rejected, _, ready = worker.claim(5)
    worker.submit(second, b"old")
    worker.fail(first, "boom")
    worker.reject(rejected, "bad")
    worker.submit(ready, b"x")
    names = ["dead", "rejected", "running", "ready", "nobody"]

    if by == "trainer":
        answer = trainer.retry(names)
    else:
        with Operator(lab.url) as operator:
            lab.go_live()
            answer = operator.retry(lab.run, names)

    expected = {"dead": "retried", "rejected": "retried", "running": "running", "ready": "ready", "nobody": "unknown"}
    assert answer == expected
    row = lab.row("dead")
    assert (row.state, row.letters, row.errors, row.reason) == ("pending", "OO", 0, "")
    again = worker.claim(9)
    assert [(attempt.task, attempt.tries) for attempt in again] == [("dead", 0), ("dead", 0), ("rejected", 0)]
    assert {attempt.id for attempt in again}.isdisjoint({first.id, second.id, rejected.id})
    assert worker.submit(first, b"late").answer == "superseded"


# -- taken out by the trainer ------------------------------------------------------------------------------------------


def test_cancel_takes_tasks_out_whoever_works_on_them(lab: Lab):
    trainer, worker = lab.trainer(consumer_batch_size=1, max_staleness=9, max_concurrent_rollouts=9), lab.worker()
    trainer.enqueue(Task(id="consumed"))
    run_one(worker)
    trainer.next_batch(timeout=1)
    trainer.advance()
    trainer.enqueue(Task(id="sealed"))
    run_one(worker)
    trainer.next_batch(timeout=1)
    trainer.enqueue([Task(id=name) for name in ("dead", "delayed", "ready", "running", "pending")])
    worker.fail(worker.claim()[0], "boom", retry=False)
    worker.fail(worker.claim()[0], "boom")
    run_one(worker)
    (running,) = worker.claim()
    names = ["consumed", "sealed", "dead", "delayed", "ready", "running", "pending"]
    assert lab.states() == {name: name for name in names}

    answer = trainer.cancel([*names, "nobody", "pending"])

    assert list(answer.items()) == [
        *[(name, name) for name in names[:3]],
        *[(name, "cancelled") for name in names[3:6]],
        ("pending", "rejected"),  # named twice: the second time it was already out
        ("nobody", "unknown"),
    ]
    assert {lab.row(name).reason for name in names[3:]} == {"cancelled"}
    assert {lab.row(name).state for name in names[3:]} == {"rejected"}
    assert worker.submit(running, b"late").answer == "unknown"
    assert lab.stat("running") == 0


def test_discard_takes_only_finished_rollouts(lab: Lab):
    trainer, worker = lab.trainer(consumer_batch_size=2, max_concurrent_rollouts=9), lab.worker()
    trainer.enqueue(tasks(3))
    run_one(worker)
    worker.claim()
    answer = trainer.discard(["t0", "t1", "t2", "nobody"], "no advantage")
    assert answer == {"t0": "discarded", "t1": "running", "t2": "pending", "nobody": "unknown"}
    assert (lab.row("t0").state, lab.row("t0").reason) == ("rejected", "no advantage")
    assert lab.result_keys() == set()


def test_a_sealed_batch_cannot_be_taken_apart(lab: Lab):
    trainer, worker = lab.trainer(consumer_batch_size=2), lab.worker()
    trainer.enqueue(tasks(2))
    run_one(worker)
    run_one(worker)
    batch = trainer.next_batch(timeout=1)

    assert trainer.discard(names_of(batch)) == {"t0": "sealed", "t1": "sealed"}
    assert trainer.cancel(names_of(batch)) == {"t0": "sealed", "t1": "sealed"}
    assert trainer.retry(names_of(batch)) == {"t0": "sealed", "t1": "sealed"}

    assert names_of(trainer.next_batch(timeout=1)) == names_of(batch)


def test_more_ids_than_one_call_takes_are_sent_in_pieces(lab: Lab):
    trainer = lab.trainer()
    names = [f"t{i}" for i in range(1_100)]
    trainer.enqueue(Task(id=name) for name in names)
    assert trainer.cancel(names) == dict.fromkeys(names, "cancelled")
    assert trainer.stats().rejected == 1_100
    assert trainer.retry(names) == dict.fromkeys(names, "retried")
