"""Tasks that ended without being trained on: where they are reported, and how they come back."""

import asyncio
import logging
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest

from broker import Task, Trainer, Worker, aio
from broker.errors import BadArgument, Exhausted, TooBig
from broker.operator import Operator
from broker.protocol import anyone
from tests.conformance.lab import Lab, names_of, run_one, tasks


def outage(lab: Lab, trainer: Trainer, count: int, *, error: str = "RuntimeError('the engine is down')") -> Worker:
    """Enqueues `count` tasks, all of which end dead."""
    worker = lab.worker()
    trainer.enqueue(tasks(count))
    kill(lab, worker, error)
    return worker


def kill(lab: Lab, worker: Worker, error: str = "boom") -> None:
    while attempts := worker.claim(64):
        for attempt in attempts:
            lab.pass_ms(1)
            worker.fail(attempt, error, retry=False)


def trim(lab: Lab) -> None:
    while lab.call(anyone.trim):
        pass


# -- what is told ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("flavour", ["sync", "aio"])
def test_an_exhausted_run_names_the_dead_and_why_they_are(lab: Lab, flavour: str):
    trainer = lab.trainer(halt_after_failures=0, consumer_batch_size=4, max_concurrent_rollouts=99)
    worker = outage(lab, trainer, 6)
    trainer.enqueue(Task(id="r"))
    worker.reject(worker.claim(1)[0], "off topic")

    with pytest.raises(Exhausted) as caught:
        if flavour == "sync":
            trainer.next_batch(timeout=5)
        else:
            trainer.close()
            asyncio.run(next_batch_of(lab))
    fields = caught.value.fields
    assert (fields["left"], fields["dead"], fields["rejected"]) == (0, 6, 1)
    text = str(caught.value)
    assert "6 tasks are dead and 1 rejected" in text
    assert "the engine is down" in text
    assert f"broker dead {lab.run} list" in text
    assert "again=True" in text


async def next_batch_of(lab: Lab) -> None:
    async with aio.Trainer(lab.url, lab.run, clock=lab.clock) as trainer:
        await trainer.next_batch(timeout=5)


def test_an_exhausted_run_of_which_nothing_died_speaks_of_no_dead(lab: Lab):
    trainer = lab.trainer(consumer_batch_size=4)
    trainer.enqueue(tasks(3))
    with pytest.raises(Exhausted) as caught:
        trainer.next_batch(timeout=5)
    assert "dead" not in str(caught.value)


def test_reasons_are_told_once_a_few_and_short(lab: Lab):
    trainer, worker = (
        lab.trainer(halt_after_failures=0, consumer_batch_size=99, max_concurrent_rollouts=99),
        lab.worker(),
    )
    trainer.enqueue(tasks(30))
    for i in range(30):
        lab.pass_ms(1)
        worker.fail(worker.claim(1)[0], f"error {i // 2} " + "x" * 500, retry=False)
    with pytest.raises(Exhausted) as caught:
        trainer.next_batch(timeout=5)
    reasons = caught.value.fields["reasons"]
    assert [reasons.count(f"error {i} ") for i in (14, 13, 12, 11)] == [1, 1, 1, 0]
    assert len(reasons) < 400


def test_enqueue_tells_the_state_of_each_task_that_is_there(lab: Lab):
    trainer = lab.trainer(
        halt_after_failures=0,
        consumer_batch_size=1,
        max_staleness=9,
        max_concurrent_rollouts=99,
        max_finished=0,
        retention_steps=0,
    )
    worker = lab.worker()
    for ends in ("dead_freed", "rejected_freed"):
        trainer.enqueue(Task(id=ends))
        attempt = worker.claim(1)[0]
        _ = worker.fail(attempt, "boom", retry=False) if ends == "dead_freed" else worker.reject(attempt, "bad")
    for name in ("trained_freed", "consumed"):
        trainer.enqueue(Task(id=name))
        run_one(worker)
        trainer.next_batch(timeout=5)
        trainer.advance()
    trim(lab)
    for name in ("sealed", "ready", "running", "delayed", "dead", "rejected", "pending"):
        trainer.enqueue(Task(id=name))
        if name == "pending":
            break
        attempt = worker.claim(1)[0]
        if name in ("sealed", "ready"):
            worker.submit(attempt, b"x")
        if name == "sealed":
            trainer.next_batch(timeout=5)
        if name in ("delayed", "dead"):
            worker.fail(attempt, "boom", retry=name == "delayed")
        if name == "rejected":
            worker.reject(attempt, "bad")
    given = [
        *("dead_freed", "rejected_freed", "trained_freed", "consumed", "sealed", "ready", "running", "delayed"),
        *("dead", "rejected", "pending"),
    ]
    answer = trainer.enqueue([Task(id=name) for name in given])
    assert (answer.added, answer.existing) == (0, given)
    assert answer.states["dead_freed"] == answer.states["rejected_freed"] == "freed_untrained"
    assert answer.states["trained_freed"] == "freed"
    same = ("consumed", "sealed", "ready", "running", "delayed", "dead", "rejected", "pending")
    assert {name: answer.states[name] for name in same if name != "consumed"} == {
        name: name for name in same if name != "consumed"
    }
    assert answer.states["consumed"] in ("consumed", "freed")
    assert answer.counts["freed_untrained"] == 2
    assert sum(answer.counts.values()) == len(given)


def test_a_task_given_twice_in_one_call_is_pending_the_second_time(lab: Lab):
    answer = lab.trainer().enqueue([Task(id="a"), Task(id="a")])
    assert (answer.added, answer.existing, answer.states) == (1, ["a"], {"a": "pending"})


def test_dead_tasks_that_are_freed_are_told(lab: Lab, caplog: pytest.LogCaptureFixture):
    """In the totals, the events, the log of the trainer that trims and its errors. Mutants: freed_unsaid, freed_uncounted."""
    trainer = lab.trainer(
        halt_after_failures=0,
        consumer_batch_size=4,
        max_concurrent_rollouts=99,
        max_staleness=9,
        max_finished=2,
        retention_steps=0,
    )
    outage(lab, trainer, 6)
    with caplog.at_level(logging.WARNING, "broker"):
        for _ in range(2):
            trainer.advance(allow_empty=True)
            trim_by(trainer)
    totals = trainer.stats().totals
    assert (trainer.stats().dead, totals["freed_dead"], totals.get("freed_rejected", 0)) == (2, 4, 0)
    freed = [words for kind, words in lab.transitions() if kind == "freed"]
    assert [words[:2] for words in freed] == [[f"t{i}", "dead"] for i in range(4)]
    assert "the%20engine%20is%20down" in freed[0][2]
    warned = [record.getMessage() for record in caplog.records if "were freed" in record.getMessage()]
    assert len(warned) == 1
    assert "4 dead and 0 rejected" in warned[0]
    with pytest.raises(Exhausted, match="the records of 4 such are freed"):
        trainer.next_batch(timeout=5)


def test_a_filter_that_refuses_everything_is_not_told_of_at_each_step(lab: Lab, caplog: pytest.LogCaptureFixture):
    trainer = lab.trainer(
        halt_after_failures=0,
        consumer_batch_size=1,
        max_concurrent_rollouts=99,
        max_staleness=9,
        max_finished=1,
        retention_steps=0,
    )
    worker = lab.worker()
    for step in range(6):
        trainer.enqueue(Task(id=f"t{step}"))
        (attempt,) = worker.claim(1)
        worker.reject(attempt, "no good")
        trainer.advance(allow_empty=True)
        trim_by(trainer)
    assert trainer.stats().totals["freed_rejected"] > 2
    assert sum("were freed" in record.getMessage() for record in caplog.records) == 1


def trim_by(trainer: Trainer) -> None:
    while trainer._run(trainer._state.trim()):
        pass


# -- again -------------------------------------------------------------------------------------------------------------


def test_an_outage_is_over_and_all_are_enqueued_again(lab: Lab):
    """Kept ones and freed ones alike; not without being asked, and nothing that was trained on.

    Mutants: freed_ones_are_not_taken_again, taken_again_and_still_finished, freed_dead_count_as_trained,
    freed_trained_count_as_dead.
    """
    trainer = lab.trainer(
        halt_after_failures=0,
        consumer_batch_size=2,
        max_concurrent_rollouts=99,
        max_staleness=99,
        max_finished=3,
        retention_steps=0,
    )
    worker = lab.worker()
    trainer.enqueue(tasks(2, "trained"))
    for _ in range(2):
        run_one(worker)
    trainer.next_batch(timeout=5)
    trainer.advance()
    trainer.enqueue(tasks(10))
    kill(lab, worker)
    for _ in range(2):
        trainer.advance(allow_empty=True)
    trim(lab)
    rows = [*tasks(2, "trained"), *tasks(10)]

    unasked = trainer.enqueue(rows)
    assert unasked.added == 0
    assert unasked.counts == {"freed": 2, "freed_untrained": 7, "dead": 3}

    again = trainer.enqueue(rows, again=True)
    assert (again.added, again.counts) == (10, {"freed": 2})
    assert lab.stat("finished_ids") == 2, "of those that are there again the end is not remembered"
    assert trainer.enqueue(rows, again=True).counts == {"freed": 2, "pending": 10}
    for _ in range(10):
        run_one(worker)
    batches = []
    for _ in range(5):
        batches += names_of(trainer.next_batch(timeout=5))
        trainer.advance()
    assert sorted(batches) == sorted(f"t{i}" for i in range(10))
    trim(lab)
    assert trainer.enqueue(rows, again=True).counts.keys() <= {"freed", "consumed"}


@pytest.mark.parametrize("samples", [1, 3, 5])
def test_a_task_taken_again_is_what_is_given_now(lab: Lab, samples: int):
    """Mutants: taken_again_with_its_old_payload, taken_again_leaves_slots."""
    trainer, worker = lab.trainer(halt_after_failures=0, max_concurrent_rollouts=9), lab.worker()
    trainer.enqueue([Task(id="a", payload=b"old", samples=3, priority=1), Task(id="b", payload=b"b")])
    kill(lab, worker)
    answer = trainer.enqueue(
        Task(id="a", payload=b"new", samples=samples, min_samples=1, priority=-5), cursor=7, again=True
    )
    assert (answer.added, trainer.cursor, trainer.stats().totals["retried"]) == (1, 7, 1)
    row = lab.row("a")
    assert (row.state, row.samples, row.min_samples, row.priority, row.letters) == (
        *("pending", samples, 1, -5),
        "O" * samples,
    )
    assert all(slot.tries == 0 for slot in row.slots)
    attempts = worker.claim(9)
    assert [(attempt.task, attempt.payload) for attempt in attempts] == [("a", b"new")] * samples
    for attempt in attempts:
        worker.submit(attempt, b"x")
    assert len(trainer.next_batch(timeout=5)[0].results) == samples


def test_a_lost_answer_of_an_enqueue_again_has_one_effect(lab: Lab):
    from broker.protocol import trainer as calls
    from broker.protocol.trainer import NewTask

    trainer, worker = lab.raw_trainer(), lab.raw_worker()
    trainer.enqueue("a")
    worker.fail(worker.take_one(), may_retry=False)
    sent = [NewTask("a", b"new")]
    first = trainer.send(calls.enqueue, sent, again=True)
    trainer.number -= 1
    assert trainer.send(calls.enqueue, sent, again=True) == first
    assert first.added == 1
    assert lab.row("a").state == "pending"
    assert trainer.send(calls.enqueue, sent, again=True).states == ("pending",)


def test_a_retry_says_what_became_of_freed_tasks(lab: Lab):
    """Mutants: retry_knows_nothing_of_what_was_freed."""
    trainer = lab.trainer(halt_after_failures=0, max_concurrent_rollouts=9, max_finished=0, retention_steps=0)
    outage(lab, trainer, 1)
    trainer.advance(allow_empty=True)
    trim(lab)
    with Operator(lab.url) as operator:
        assert operator.retry(lab.run, ["t0", "never"]) == {"t0": "freed_untrained", "never": "unknown"}


# -- left in the middle ------------------------------------------------------------------------------------------------


def rows(bad_at: int) -> Iterator[Any]:
    for i in range(200):
        yield Task(id=f"t{i}", payload=bytes(2000 if i == bad_at else 1))


async def rows_later(bad_at: int) -> AsyncIterator[Any]:
    for task in rows(bad_at):
        yield task


@pytest.mark.parametrize("make", [rows, lambda at: filter(None, rows(at))], ids=["generator", "filter"])
def test_an_iterator_that_was_left_in_the_middle_is_refused(lab: Lab, make: Any):
    """The iterator has lost the tasks that were taken from it, and the cursor is after them."""
    trainer = lab.trainer(max_payload_bytes=1000)
    source = make(150)
    with pytest.raises(TooBig) as caught:
        trainer.enqueue(source, cursor=200)
    added = trainer.stats().pending
    assert caught.value.fields["added"] == added
    assert 0 < added < 150
    assert any(f"{added} of the tasks" in note for note in caught.value.__notes__)
    for _ in range(2):
        with pytest.raises(BadArgument, match="left in the middle"):
            trainer.enqueue(source, cursor=200)
    assert (trainer.cursor, trainer.stats().pending) == (None, added)
    answer = trainer.enqueue(make(999), cursor=200)
    assert (answer.added, len(answer.existing), trainer.cursor) == (200 - added, added, 200)


def test_another_trainer_refuses_it_too(lab: Lab):
    """A caller that closes its trainer after the error opens another one, and has the iterator still."""
    source = rows(150)
    with pytest.raises(TooBig):
        lab.trainer(max_payload_bytes=1000).enqueue(source, cursor=200)
    trainer = lab.trainer(reopen=True)
    with pytest.raises(BadArgument, match="left in the middle"):
        trainer.enqueue(source, cursor=200)
    assert trainer.cursor is None


def test_an_iterator_whose_own_error_ended_it_is_refused(lab: Lab):
    def broken() -> Iterator[Task]:
        yield Task(id="a")
        raise OSError("the disk is away")

    trainer, source = lab.trainer(), broken()
    with pytest.raises(OSError, match="the disk is away"):
        trainer.enqueue(source, cursor=9)
    with pytest.raises(BadArgument, match="left in the middle"):
        trainer.enqueue(source, cursor=9)
    assert trainer.cursor is None


def test_a_list_may_be_given_again(lab: Lab):
    trainer = lab.trainer(max_payload_bytes=1000)
    given = list(rows(70))
    for _ in range(2):
        with pytest.raises(TooBig):
            trainer.enqueue(given, cursor=1)
    given[70] = Task(id="t70")
    assert trainer.enqueue(given, cursor=1).added + trainer.stats().pending >= 200


@pytest.mark.parametrize("make", [rows, rows_later], ids=["iterator", "asynchronous"])
def test_an_asynchronous_trainer_refuses_it_too(lab: Lab, make: Any):
    lab.trainer(max_payload_bytes=1000).close()

    async def main() -> None:
        async with aio.Trainer(lab.url, lab.run, clock=lab.clock) as trainer:
            source = make(150)
            with pytest.raises(TooBig) as caught:
                await trainer.enqueue(source, cursor=200)
            added = (await trainer.stats()).pending
            assert caught.value.fields["added"] == added
            with pytest.raises(BadArgument, match="left in the middle"):
                await trainer.enqueue(source, cursor=200)
            assert trainer.cursor is None
            answer = await trainer.enqueue(make(999), cursor=200)
            assert (answer.added, answer.counts, trainer.cursor) == (200 - added, {"pending": added}, 200)
            worker_less = await trainer.enqueue(make(999), again=True)
            assert worker_less.counts == {"pending": 200}

    asyncio.run(main())
