"""Forming, filtering, sealing, reading and acknowledging batches."""

from dataclasses import asdict

import numpy as np
import pytest

from broker import Rollout, Task
from broker.errors import (
    BadArgument,
    DigestMismatch,
    Early,
    Exhausted,
    Gone,
    TooMany,
    WaitTimeout,
)
from broker.protocol import anyone
from broker.protocol import trainer as calls
from tests.conformance.lab import Lab, names_of, run_one, tasks
from tests.threads import InThread
from tests.waiting import wait_until


def test_a_batch_brings_what_was_submitted(lab: Lab):
    trainer, worker = lab.trainer(consumer_batch_size=2), lab.worker(name="host-1")
    trainer.enqueue([Task(id="a", payload={"prompt": "2+2", "ids": [1, 2]}, priority=7), Task(id="b", payload=b"raw")])
    for attempt in worker.claim(2):
        worker.submit(attempt, {"tokens": np.arange(5, dtype=np.int32), "of": attempt.task})

    first, second = trainer.next_batch(timeout=1)

    assert (first.task, first.payload, first.priority, first.step) == ("a", {"prompt": "2+2", "ids": [1, 2]}, 7, 0)
    assert (second.task, second.payload, second.priority) == ("b", b"raw", 0)
    assert first.results[0]["of"] == "a"
    np.testing.assert_array_equal(first.results[0]["tokens"], np.arange(5, dtype=np.int32))
    assert first.samples[0].worker == "host-1"


def test_the_call_that_seals_brings_rows_and_small_results(lab: Lab):
    trainer, worker = lab.raw_trainer(consumer_batch_size=2), lab.raw_worker()
    trainer.enqueue("a", "b", samples=2)
    wanted = {"limit": 100, "seal": True, "rows": 2, "result_bytes": 4}
    assert (trainer.send(calls.take, 0, 2, **wanted).rows, worker.work(4)) == ((), ["a", "a", "b", "b"])
    taken = trainer.send(calls.take, 0, 2, **wanted)
    assert (taken.sealed, taken.results) == (True, (b"x",) * 4)
    assert list(map(asdict, taken.rows)) == list(map(asdict, lab.call(anyone.batch, 0, 0, 9).rows))
    trainer.number -= 1
    again = trainer.send(calls.take, 0, 2, **wanted)
    assert (again.digest, again.rows, again.results) == (taken.digest, (), ()), "the answer that is kept is small"


def test_large_results_do_not_come_with_the_rows(lab: Lab):
    trainer, worker = lab.raw_trainer(consumer_batch_size=2), lab.raw_worker()
    trainer.enqueue("a", "b")
    worker.work(2)
    taken = trainer.send(calls.take, 0, 2, limit=100, seal=True, rows=1, result_bytes=0)
    assert ([row.task for row in taken.rows], taken.results) == (["a"], ())
    trainer.advance(0, taken.digest)
    trainer.enqueue("c", "d")
    worker.work(2)
    taken = trainer.send(calls.take, 1, 2, limit=100, seal=True, rows=2, result_bytes=1)
    assert ([row.task for row in taken.rows], taken.results) == (["c", "d"], ())


def test_large_groups_are_read_and_freed_in_pieces(lab: Lab):
    """Four groups of 400: a call deals with 1000 slots at most, and later calls deal with the rest."""
    trainer, worker = lab.trainer(consumer_batch_size=4, max_staleness=5), lab.worker()
    trainer.enqueue([Task(id=f"g{i}", payload=i, samples=400) for i in range(4)])
    while attempts := worker.claim(64):
        worker.submit_many([(attempt, f"{attempt.task}/{attempt.slot}".encode()) for attempt in attempts])
    assert len(lab.call(anyone.batch, 0, 0, 4).rows) == 0
    batch = trainer.next_batch(timeout=10)
    assert [len(rows) for rows in (lab.call(anyone.batch, 0, at, 4).rows for at in (0, 2))] == [2, 2]
    assert [rollout.results for rollout in batch] == [[f"g{i}/{k}".encode() for k in range(400)] for i in range(4)]
    assert len(lab.result_keys()) == 1600
    for _ in range(2):
        trainer.advance(allow_empty=True)
    assert lab.result_keys() == set()


@pytest.mark.parametrize("meanwhile", [False, True])
def test_a_filtered_batch_of_what_is_left_looks_at_all_of_it_at_once(
    lab: Lab, monkeypatch: pytest.MonkeyPatch, meanwhile: bool
):
    """The filter also judges rollouts that become ready while it judges others."""
    monkeypatch.setattr("broker.trainer.batches.LOOK_AGAIN_S", 15.0)
    monkeypatch.setattr("broker.trainer.batches.TAKE_LIMIT", 2)
    trainer, worker = lab.trainer(consumer_batch_size=9, max_concurrent_rollouts=9), lab.worker()
    trainer.enqueue(tasks(5))
    for _ in range(4 if meanwhile else 5):
        run_one(worker)

    def accept(rollout: Rollout) -> bool:
        if meanwhile and rollout.task == "t3":
            run_one(worker)
        return True

    batch = InThread(lambda: trainer.next_batch(short=True, accept=accept))
    assert names_of(batch.result(10)) == [f"t{i}" for i in range(5)]


def test_asked_again_before_advance_it_answers_the_same_batch(lab: Lab):
    trainer, worker = lab.trainer(consumer_batch_size=2, max_concurrent_rollouts=9, max_staleness=3), lab.worker()
    trainer.enqueue(tasks(6))
    for _ in range(4):
        run_one(worker)
    first = trainer.next_batch(timeout=1)
    assert names_of(trainer.next_batch(timeout=1)) == names_of(first)
    assert names_of(lab.trainer(reopen=True).next_batch(timeout=1)) == names_of(first)


def test_a_sealed_batch_never_changes(lab: Lab):
    """Mutants: sealed_batch_is_filled_again, sealed_batch_can_be_cancelled."""
    trainer = lab.raw_trainer(consumer_batch_size=2, max_staleness=3, max_concurrent_rollouts=9)
    worker = lab.raw_worker()
    trainer.enqueue("a", "b", "c", "d")
    worker.work(4)
    sealed = trainer.take(0, 2)
    read = lab.call(anyone.batch, 0, 0, 10)
    assert (sealed.size, sealed.sealed) == (2, True)

    assert trainer.take(0, 4) == calls.Taken(2, True, False, 0, False, sealed.digest, sealed.sealed_ms, 0, False)
    trainer.send(calls.cancel, ["a", "b", "c"])
    trainer.send(calls.discard, "x", ["a", "b"])
    lab.pass_ms(10**9)
    lab.call(anyone.requeue)
    trainer.take(1, 1)

    assert asdict(lab.call(anyone.batch, 0, 0, 10)) == asdict(read)
    assert [row.task for row in read.rows] == ["a", "b"]


def test_batches_are_formed_in_order_and_at_most_one_ahead(lab: Lab):
    trainer = lab.raw_trainer(consumer_batch_size=1, max_staleness=9, max_concurrent_rollouts=9)
    worker = lab.raw_worker()
    trainer.enqueue(*"abcd")
    worker.work(4)
    for step in (1, 2, 7):
        with pytest.raises(Early) as caught:
            trainer.take(step, 1)
        assert caught.value.fields["step_next"] == "0"
    first = trainer.take(0, 1)
    assert trainer.take(1, 1).sealed
    with pytest.raises(Early) as caught:
        trainer.take(2, 1)
    assert caught.value.fields["version"] == "0"
    with pytest.raises(Early):
        trainer.send(calls.advance, 1, first.digest)
    trainer.advance(0, first.digest)
    assert trainer.take(2, 1).sealed


@pytest.mark.parametrize(("n", "step", "allowed"), [(6, 0, True), (7, 0, False), (4, 1, True), (5, 1, False)])
def test_more_than_could_ever_be_ready_is_refused(lab: Lab, n: int, step: int, allowed: bool):
    trainer = lab.raw_trainer(consumer_batch_size=2, max_staleness=2, max_concurrent_rollouts=9)
    worker = lab.raw_worker()
    trainer.enqueue(*"abcdefgh")
    if step == 1:
        worker.work(1)
        trainer.take(0, 1)
    if allowed:
        assert not trainer.take(step, n).sealed
    else:
        with pytest.raises(TooMany) as caught:
            trainer.take(step, n)
        assert (caught.value.fields["n"], caught.value.fields["bound"]) == (str(n), str(n - 1))


def test_advance_names_the_batch_it_trained(lab: Lab):
    trainer = lab.raw_trainer(consumer_batch_size=1)
    worker = lab.raw_worker()
    trainer.enqueue("a")
    worker.work()
    taken = trainer.take(0, 1)
    for digest in ("0" * 40, "-", "", taken.digest[:-1]):
        with pytest.raises(DigestMismatch) as caught:
            trainer.send(calls.advance, 0, digest, allow_empty=True)
        assert caught.value.fields["sealed"] == taken.digest
    assert lab.stat("version") == 0
    assert trainer.advance(0, taken.digest) == calls.Advanced(1, 1, 1)


def test_the_digest_tells_batches_apart(lab: Lab):
    digests: set[str] = set()
    for i, order in enumerate(["ab", "ba", "ac"]):
        run = f"{lab.run}/{i}"
        lab.runs.add(run)
        lab.run = run
        trainer = lab.raw_trainer(consumer_batch_size=2)
        trainer.enqueue(*order)
        lab.raw_worker().work(2)
        digests.add(trainer.take(0, 2).digest)
    assert len(digests) == 3


def test_a_forgotten_take_is_noticed(lab: Lab):
    trainer, worker = lab.trainer(consumer_batch_size=1), lab.worker()
    trainer.enqueue(tasks(2))
    run_one(worker)
    with pytest.raises(Early):
        trainer.advance()
    trainer.next_batch(timeout=1)
    trainer.advance()
    with pytest.raises(Early):
        trainer.advance()
    assert trainer.version == 1


def test_an_empty_advance_is_refused_where_a_batch_is_sealed_or_begun(lab: Lab):
    trainer = lab.raw_trainer(consumer_batch_size=2, max_concurrent_rollouts=5, max_staleness=4)
    worker = lab.raw_worker()
    trainer.enqueue(*"abc")
    worker.work(1)
    trainer.take(0, 2)
    with pytest.raises(Early) as caught:
        trainer.advance(0)
    assert caught.value.fields["open"] == "1"
    worker.work(1)
    trainer.take(0, 2)
    with pytest.raises(DigestMismatch):
        trainer.advance(0)
    assert lab.stat("version") == 0


def test_an_empty_advance_must_be_asked_for(lab: Lab):
    trainer = lab.trainer()
    with pytest.raises(Early):
        trainer.advance()
    assert trainer.advance(allow_empty=True) == 1
    assert (trainer.version, trainer.step_next) == (1, 1)


# -- the filter --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("staleness", [0, 2, None])
def test_what_the_filter_refuses_is_discarded_and_replaced(lab: Lab, staleness: int | None):
    """With S = 0 a discard must open capacity, or the batch could never be filled (protocol, last section).

    Mutants: discard_keeps_accepted, unsealed_batch_counts_full.
    """
    trainer = lab.trainer(consumer_batch_size=2, max_staleness=staleness, max_concurrent_rollouts=2)
    worker = lab.worker()
    trainer.enqueue(tasks(8))
    judged: list[str] = []

    def accept(rollout: Rollout) -> bool:
        judged.append(rollout.task)
        return rollout.results[0] >= 3

    batch: list[Rollout] = []
    finished = 0
    while not batch:
        attempts = worker.claim(1)
        if not attempts:
            break
        worker.submit(attempts[0], finished)
        finished += 1
        try:
            batch = trainer.next_batch(accept=accept, timeout=0)
        except WaitTimeout:
            continue

    assert names_of(batch) == ["t3", "t4"]
    assert judged == ["t0", "t1", "t2", "t3", "t3", "t4"] or judged == [f"t{i}" for i in range(5)] or len(judged) >= 5
    assert {name for name, state in lab.states().items() if state == "rejected"} == {"t0", "t1", "t2"}
    assert lab.row("t0").reason == "filtered"
    assert lab.result_keys() == set(lab.attempts_of("t3") + lab.attempts_of("t4"))
    trainer.advance()
    assert trainer.stats().totals["discarded"] == 3


def test_each_rollout_is_judged_once_in_one_call(lab: Lab):
    trainer, worker = lab.trainer(consumer_batch_size=3, max_concurrent_rollouts=9, max_staleness=3), lab.worker()
    trainer.enqueue(tasks(8))
    for _ in range(8):
        run_one(worker)
    judged: list[str] = []

    def accept(rollout: Rollout) -> bool:
        judged.append(rollout.task)
        return rollout.task not in {"t0", "t3"}

    assert names_of(trainer.next_batch(accept=accept, timeout=1)) == ["t1", "t2", "t4"]
    assert judged == ["t0", "t1", "t2", "t3", "t4"]


def test_a_filter_that_fails_leaves_the_batch_open(lab: Lab):
    trainer, worker = lab.trainer(consumer_batch_size=1), lab.worker()
    trainer.enqueue(tasks(1))
    run_one(worker)
    with pytest.raises(ZeroDivisionError):
        trainer.next_batch(accept=lambda _: 1 / 0, timeout=1)
    assert lab.row("t0").state == "batched"
    assert names_of(trainer.next_batch(accept=lambda _: True, timeout=1)) == ["t0"]


def test_a_filter_that_refuses_everything_ends_exhausted(lab: Lab):
    trainer, worker = lab.trainer(consumer_batch_size=2), lab.worker()
    trainer.enqueue(tasks(2))
    run_one(worker)
    run_one(worker)
    with pytest.raises(Exhausted) as caught:
        trainer.next_batch(accept=lambda _: False, timeout=1)
    assert caught.value.fields["left"] == 0


# -- waiting, the end of the data --------------------------------------------------------------------------------------


def test_a_time_out_keeps_what_was_gathered(lab: Lab):
    trainer, worker = lab.trainer(consumer_batch_size=2), lab.worker()
    trainer.enqueue(tasks(2))
    run_one(worker)
    with pytest.raises(WaitTimeout) as caught:
        trainer.next_batch(timeout=0)
    assert isinstance(caught.value, TimeoutError)
    assert (caught.value.fields["size"], caught.value.fields["n"]) == (1, 2)
    assert trainer.stats().batched == 1
    run_one(worker)
    assert names_of(trainer.next_batch(timeout=1)) == ["t0", "t1"]


def test_it_waits_for_the_workers(lab: Lab):
    trainer, worker = lab.trainer(consumer_batch_size=2), lab.worker()
    trainer.enqueue(tasks(2))
    waiting = InThread(trainer.next_batch)
    wait_until(lambda: lab.stat("want") == 2, "the trainer waits")
    run_one(worker)
    assert waiting.is_running
    run_one(worker)
    assert names_of(waiting.result()) == ["t0", "t1"]


@pytest.mark.parametrize("still", ["pending", "delayed", "running"])
def test_exhausted_only_when_nothing_can_come_any_more(lab: Lab, still: str):
    trainer, worker = lab.trainer(consumer_batch_size=3, max_concurrent_rollouts=9), lab.worker()
    trainer.enqueue(tasks(3))
    run_one(worker)
    run_one(worker)
    if still != "pending":
        (attempt,) = worker.claim()
        if still == "delayed":
            worker.fail(attempt, "boom")
    with pytest.raises(WaitTimeout):
        trainer.next_batch(timeout=0)
    with pytest.raises(WaitTimeout):
        trainer.next_batch(timeout=0, short=True)
    trainer.cancel(["t2"])
    with pytest.raises(Exhausted) as caught:
        trainer.next_batch(timeout=0)
    assert (caught.value.fields["left"], caught.value.fields["n"]) == (2, 3)
    assert names_of(trainer.next_batch(timeout=0, short=True)) == ["t0", "t1"]
    trainer.advance()
    with pytest.raises(Exhausted):
        trainer.next_batch(timeout=0, short=True)


def test_what_a_take_just_took_is_counted_once(lab: Lab):
    """Mutants: taken_and_not_written_before_it_counts."""
    trainer, worker = lab.raw_trainer(consumer_batch_size=3), lab.raw_worker()
    trainer.enqueue("a", "b", "c")
    worker.work(2)
    assert trainer.take(0, 3) == calls.Taken(2, False, False, 3, False, "-", 0, 2, False)
    worker.fail(worker.take_one(), may_retry=False)
    trainer.enqueue("d")
    worker.work(1)
    trainer.send(calls.discard, "x", ["a"])
    assert trainer.take(0, 3) == calls.Taken(2, False, True, 2, False, "-", 0, 1, False)


def test_an_empty_run_is_exhausted(lab: Lab):
    trainer = lab.trainer(consumer_batch_size=1)
    for short in (False, True):
        with pytest.raises(Exhausted):
            trainer.next_batch(short=short)


def test_a_trainer_that_waits_hears_of_the_end(lab: Lab):
    trainer, worker = lab.trainer(consumer_batch_size=2), lab.worker()
    trainer.enqueue(tasks(2))
    run_one(worker)
    (attempt,) = worker.claim()
    waiting = InThread(lambda: trainer.next_batch(short=True))
    wait_until(lambda: lab.stat("want") == 1, "the trainer waits")
    worker.fail(attempt, "boom", retry=False)
    assert names_of(waiting.result()) == ["t0"]


# -- prefetch ----------------------------------------------------------------------------------------------------------


def test_prefetch_forms_the_next_batch_while_this_one_is_trained(lab: Lab):
    trainer, worker = lab.trainer(consumer_batch_size=2, max_staleness=1, max_concurrent_rollouts=9), lab.worker()
    trainer.enqueue(tasks(6))
    for _ in range(4):
        run_one(worker)

    first = trainer.next_batch(prefetch=True, timeout=5)
    wait_until(lambda: lab.stat("step_next") == 2, "the batch of step 1 is formed in the background")
    second = trainer.next_batch(prefetch=True, timeout=5)

    assert [names_of(first), names_of(second)] == [["t0", "t1"], ["t2", "t3"]]
    assert [rollout.staleness for rollout in first + second] == [0, 0, 1, 1]
    assert trainer.advance() == 1
    assert trainer.advance() == 2


def test_a_prefetched_batch_comes_out_after_the_advance_too(lab: Lab):
    trainer, worker = lab.trainer(consumer_batch_size=1, max_staleness=2, max_concurrent_rollouts=9), lab.worker()
    trainer.enqueue(tasks(4))
    for _ in range(3):
        run_one(worker)
    seen: list[str] = []
    for _ in range(3):
        seen += names_of(trainer.next_batch(prefetch=True, timeout=5))
        trainer.advance()
    assert seen == ["t0", "t1", "t2"]


def test_without_staleness_there_is_nothing_to_prefetch(lab: Lab):
    trainer, worker = lab.trainer(consumer_batch_size=1, max_staleness=0), lab.worker()
    trainer.enqueue(tasks(3))
    for step in range(3):
        run_one(worker)
        (rollout,) = trainer.next_batch(prefetch=True, timeout=5)
        assert (rollout.task, rollout.staleness) == (f"t{step}", 0)
        trainer.advance()


# -- ranks -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("world", [1, 2, 3, 5, 9])
def test_ranks_read_contiguous_shards_that_together_are_the_batch(lab: Lab, world: int):
    trainer, worker = lab.trainer(consumer_batch_size=7), lab.worker()
    trainer.enqueue(tasks(7))
    for _ in range(7):
        run_one(worker)
    batch = trainer.next_batch(timeout=1)

    ranks = [lab.trainer(attach=True) for _ in range(2)]
    shards = [ranks[rank % 2].read_batch(0, rank, world, timeout=1) for rank in range(world)]

    assert [name for shard in shards for name in names_of(shard)] == names_of(batch)
    sizes = [len(shard) for shard in shards]
    assert max(sizes) - min(sizes) <= 1
    assert {rollout.step for shard in shards for rollout in shard} == {0}


def test_a_rank_waits_until_the_batch_is_sealed(lab: Lab):
    trainer, worker = lab.trainer(consumer_batch_size=2), lab.worker()
    rank = lab.trainer(attach=True)
    trainer.enqueue(tasks(2))
    with pytest.raises(WaitTimeout):
        rank.read_batch(0, timeout=0)
    with pytest.raises(WaitTimeout):
        rank.read_batch(5, timeout=0)
    reading = InThread(lambda: rank.read_batch(0, 1, 2))
    run_one(worker)
    run_one(worker)
    trainer.next_batch(timeout=1)
    assert names_of(reading.result()) == ["t1"]


def test_slow_ranks_still_read_the_batch_before(lab: Lab):
    """The bytes of a batch live until the advance after its own. Mutants: bytes_freed_at_once."""
    trainer, worker = lab.trainer(consumer_batch_size=1), lab.worker()
    rank = lab.trainer(attach=True)
    trainer.enqueue(tasks(3))
    for step in range(3):
        run_one(worker, f"of step {step}")
        trainer.next_batch(timeout=1)
        assert rank.read_batch(step)[0].results == [f"of step {step}"]
        trainer.advance()
        assert rank.read_batch(step)[0].results == [f"of step {step}"]
        if step:
            with pytest.raises(Gone):
                rank.read_batch(step - 1)


def test_a_batch_that_was_never_formed_is_gone(lab: Lab):
    trainer = lab.trainer()
    trainer.advance(allow_empty=True)
    with pytest.raises(Gone):
        trainer.read_batch(0, timeout=0)


@pytest.mark.parametrize(("rank", "world"), [(-1, 2), (2, 2), (0, 0), (5, 2), (0, -1)])
def test_ranks_that_do_not_exist(lab: Lab, rank: int, world: int):
    with pytest.raises(BadArgument):
        lab.trainer().read_batch(0, rank, world)


def test_attached_trainers_only_read(lab: Lab):
    trainer = lab.trainer()
    attached = lab.trainer(attach=True)
    changing = [
        lambda: attached.enqueue(tasks(1)),
        lambda: attached.next_batch(timeout=0),
        lambda: attached.discard(["t"]),
        lambda: attached.cancel(["t"]),
        lambda: attached.retry(["t"]),
        lambda: attached.advance(allow_empty=True),
        attached.pause,
        attached.drain,
        attached.resume,
        lambda: attached.audit(repair=True),
    ]
    before = lab.dump()
    for call in changing:
        with pytest.raises(BadArgument, match="only read"):
            call()
    assert attached.epoch == trainer.epoch
    assert attached.stats().epoch == trainer.epoch
    assert attached.audit().ok
    assert lab.dump() == before
    trainer.advance(allow_empty=True)
    assert attached.version == 0
    attached.stats()
    assert attached.version == 1
