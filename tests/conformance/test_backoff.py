"""The pause between an error and the next try, of tasks and of single slots of a group."""

from broker import Task
from tests.conformance.lab import Lab


def test_an_error_is_retried_after_a_pause_that_doubles(lab: Lab):
    """Mutants: backoff_constant, retry_at_once."""
    trainer = lab.trainer(max_attempts=5, retry_backoff_ms=1_000, retry_backoff_max_ms=3_000)
    worker = lab.worker()
    trainer.enqueue(Task(id="t"))
    for tries, pause_ms in enumerate([1_000, 2_000, 3_000, 3_000]):
        (attempt,) = worker.claim()
        assert attempt.tries == tries
        assert worker.fail(attempt, "boom").answer == "retried"
        assert lab.row("t").state == "delayed"
        lab.pass_ms(pause_ms - 1)
        assert worker.claim() == []
        assert lab.row("t").state == "delayed"
        lab.pass_ms(1)

    (attempt,) = worker.claim()
    assert worker.fail(attempt, "boom").answer == "failed"
    assert lab.row("t").state == "dead"
    assert lab.row("t").reason == "boom"


def test_no_backoff_means_pending_at_once(lab: Lab):
    trainer, worker = lab.trainer(retry_backoff_ms=0), lab.worker()
    trainer.enqueue(Task(id="t"))
    worker.fail(worker.claim()[0], "boom")
    assert lab.row("t").state == "pending"
    assert worker.claim()[0].tries == 1


def test_one_slot_of_a_group_waits_for_its_backoff_while_others_go_on(lab: Lab):
    trainer, worker = lab.trainer(consumer_batch_size=1, retry_backoff_ms=1_000), lab.worker()
    trainer.enqueue(Task(id="t", samples=2))
    first, second = worker.claim(2)
    worker.fail(first, "boom")
    assert worker.claim(2) == []
    worker.submit(second, b"x")
    assert (lab.row("t").state, lab.row("t").letters) == ("running", "WD")
    lab.pass_ms(1_000)
    (again,) = worker.claim(2)
    assert (again.slot, again.tries) == (0, 1)
    worker.submit(again, b"x")
    assert lab.row("t").state == "ready"


def test_a_group_whose_slots_all_wait_goes_to_delayed_until_the_last_is_due(lab: Lab):
    trainer, worker = lab.trainer(consumer_batch_size=1, retry_backoff_ms=1_000), lab.worker()
    trainer.enqueue(Task(id="t", samples=2))
    first, second = worker.claim(2)
    worker.fail(first, "boom")
    lab.pass_ms(500)
    worker.fail(second, "boom")
    assert lab.row("t").state == "delayed"
    assert lab.stat("running") == 0
    lab.pass_ms(999)
    assert worker.claim(2) == []
    lab.pass_ms(1)
    assert [attempt.tries for attempt in worker.claim(2)] == [1, 1]
