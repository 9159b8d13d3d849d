"""The call that seals a batch also answers its first rows, and their results if these are small."""

from dataclasses import asdict

import pytest

from broker.protocol import anyone, result_bytes
from broker.protocol import trainer as calls
from broker.protocol import worker as worker_calls
from tests.conformance.lab import Lab, RawTrainer


def take(trainer: RawTrainer, n: int, *, rows: int = 1000, result_bytes: int = 1_000_000) -> calls.Taken:
    """The next take of step 0, with rows."""
    return trainer.send(calls.take, 0, n, limit=100, seal=True, rows=rows, result_bytes=result_bytes)


def test_rows_come_with_the_one_call_that_seals(lab: Lab):
    """Mutants: rows_before_the_seal, rows_of_a_sealed_batch."""
    trainer, worker = lab.raw_trainer(consumer_batch_size=2), lab.raw_worker()
    trainer.enqueue("a", "b")

    worker.work(1)
    begun = take(trainer, 2)
    worker.work(1)
    sealed = take(trainer, 2)
    after = take(trainer, 2)

    assert [(one.sealed, len(one.rows), len(one.results)) for one in (begun, sealed, after)] == [
        (False, 0, 0),
        (True, 2, 2),
        (True, 0, 0),
    ]
    assert after.digest == sealed.digest


def test_rows_and_results_come_in_the_order_of_the_batch(lab: Lab):
    """Whatever the order of submits. Mutants: rows_backwards, results_backwards, rows_with_the_slots_of_others."""
    trainer, worker = lab.raw_trainer(consumer_batch_size=3), lab.raw_worker()
    trainer.enqueue("a", "b", "c", samples=2)
    granted = [*worker.claim(2).granted, *worker.claim(4, random="r2").granted]
    attempts = [one.attempt_id for one in granted]
    for attempt in (attempts[i] for i in (3, 5, 0, 4, 2, 1)):
        worker.submit(attempt, attempt.encode())

    taken = take(trainer, 3, rows=2)

    assert list(map(asdict, taken.rows)) == list(map(asdict, lab.call(anyone.batch, 0, 0, 2).rows))
    assert [row.task for row in taken.rows] == ["a", "b"]
    assert [sample.attempt_id for row in taken.rows for sample in row.samples] == attempts[:4]
    assert taken.results == tuple(attempt.encode() for attempt in attempts[:4])


def test_rows_are_those_of_all_takes_that_filled_the_batch(lab: Lab):
    """Mutants: rows_of_the_last_take_only."""
    trainer, worker = lab.raw_trainer(consumer_batch_size=4), lab.raw_worker()
    trainer.enqueue("a", "b", "c", "d")
    attempts = [one.attempt_id for one in worker.claim(4).granted]
    takes: list[calls.Taken] = []
    for i, j in ((0, 2), (1, 3)):
        worker.submit(attempts[i], b"x")
        worker.submit(attempts[j], b"x")
        takes.append(take(trainer, 4))

    assert [len(one.rows) for one in takes] == [0, 4]
    assert [row.task for row in takes[1].rows] == ["a", "b", "c", "d"]
    assert list(map(asdict, takes[1].rows)) == list(map(asdict, lab.call(anyone.batch, 0, 0, 4).rows))


@pytest.mark.parametrize(("most", "come"), [(9, True), (8, False), (1, False), (0, False)])
def test_results_come_all_or_not_at_all(lab: Lab, most: int, come: bool):
    """Mutants: results_above_the_limit, results_below_the_limit_only."""
    trainer, worker = lab.raw_trainer(consumer_batch_size=3), lab.raw_worker()
    trainer.enqueue("a", "b", "c")
    for one, size in zip(worker.claim(3).granted, (2, 3, 4), strict=True):
        worker.submit(one.attempt_id, b"x" * size)

    taken = take(trainer, 3, result_bytes=most)

    assert [row.task for row in taken.rows] == ["a", "b", "c"]
    assert taken.results == ((b"xx", b"xxx", b"xxxx") if come else ())


def test_results_of_rows_that_do_not_come_do_not_count(lab: Lab):
    trainer, worker = lab.raw_trainer(consumer_batch_size=2), lab.raw_worker()
    trainer.enqueue("a", "b")
    for one, size in zip(worker.claim(2).granted, (2, 1_000), strict=True):
        worker.submit(one.attempt_id, b"x" * size)
    assert take(trainer, 2, rows=1, result_bytes=2).results == (b"xx",)


@pytest.mark.parametrize(("samples", "come"), [(16, True), (17, False)])
def test_results_are_at_most_as_many_as_a_script_reads(lab: Lab, samples: int, come: bool):
    """Mutants: any_number_of_results."""
    trainer, worker = lab.raw_trainer(consumer_batch_size=1), lab.raw_worker()
    trainer.enqueue("a", samples=samples)
    items = [worker_calls.Submission(one.attempt_id, "accept", b"x") for one in worker.claim(samples).granted]
    lab.call(result_bytes.submit_call, items)

    taken = take(trainer, 1)

    assert (taken.sealed, len(taken.rows[0].samples), taken.results) == (True, samples, (b"x",) * samples * come)
