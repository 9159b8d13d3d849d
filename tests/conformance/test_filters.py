"""Batches formed with a filter: all readers see one order, and each rollout is read once and judged once."""

import random
from collections.abc import Callable, Generator
from functools import partial
from typing import Any

import pytest

from broker import Rollout, Trainer, Worker, aio
from broker.errors import Exhausted, WaitTimeout
from broker.protocol import trainer as calls
from broker.trainer import batches
from broker.trainer.filter import Gathered
from tests.conformance.clients import blocking, coroutine
from tests.conformance.lab import Lab, names_of, run_one, tasks
from tests.threads import LoopThread

#: Long enough on a busy machine, seconds.
PATIENCE_S = 30.0


class LoopTrainer:
    """`aio.Trainer` with the synchronous trainer's interface, on a loop of its own."""

    def __init__(self, lab: Lab) -> None:
        self._thread = LoopThread()
        self._trainer = aio.Trainer(lab.url, lab.run, clock=lab.clock)
        self._thread.do(self._trainer.open())

    def __getattr__(self, name: str) -> Callable[..., Any]:
        return lambda *args, **options: self._thread.do(getattr(self._trainer, name)(*args, **options))

    def close(self) -> None:
        self._thread.do(self._trainer.close())
        self._thread.close()


@pytest.fixture(params=["sync", "aio"])
def trainer(lab: Lab, request: pytest.FixtureRequest) -> Generator[Any]:
    """A trainer of batches of 4, of which the next one may be formed ahead."""
    made = lab.trainer(consumer_batch_size=4, max_staleness=5, max_concurrent_rollouts=99)
    if request.param == "sync":
        yield made
        return
    made.close()
    loop = LoopTrainer(lab)
    yield loop
    loop.close()


class Filter:
    """Counts what it is asked, and refuses some."""

    def __init__(self, *refused: str) -> None:
        self.seen: list[str] = []
        self.refused = set(refused)

    def __call__(self, rollout: Rollout) -> bool:
        self.seen.append(rollout.task)
        return rollout.task not in self.refused


def ranks_see(lab: Lab, step: int, world: int) -> list[str]:
    """The shares of all ranks of a sealed batch, one after the other."""
    reader = lab.trainer(attach=True)
    return [name for rank in range(world) for name in names_of(reader.read_batch(step, rank, world, PATIENCE_S))]


def poll(trainer: Any, accept: Any, n: int | None = None) -> None:
    """Waits for a batch in vain."""
    with pytest.raises(WaitTimeout):
        trainer.next_batch(n, accept=accept, timeout=0)


# -- order -------------------------------------------------------------------------------------------------------------


def test_a_filtered_batch_has_the_order_that_every_rank_reads(lab: Lab, trainer: Any):
    """Tasks 2 and 3 are ready and judged before 0 and 1."""
    worker, accept = lab.worker(), Filter()
    trainer.enqueue(tasks(4))
    attempts = worker.claim(4)
    for attempt in attempts[2:]:
        worker.submit(attempt, attempt.task.encode())
    poll(trainer, accept)
    for attempt in attempts[:2]:
        worker.submit(attempt, attempt.task.encode())

    batch = trainer.next_batch(accept=accept, timeout=PATIENCE_S)

    assert accept.seen == ["t2", "t3", "t0", "t1"]
    assert names_of(batch) == ["t0", "t1", "t2", "t3"] == ranks_see(lab, 0, 2)
    assert [rollout.results for rollout in batch] == [[name.encode()] for name in names_of(batch)]


@pytest.mark.parametrize("seed", range(4))
def test_ranks_of_filtered_batches_share_what_the_leader_trains_on(lab: Lab, trainer: Any, seed: int):
    """B=8, results in any order, a third refused, cancelled by operators meanwhile; also the short batch at the end."""
    rng, worker, n = random.Random(seed), lab.worker(), 8
    trainer.enqueue(tasks(60))
    accept = Filter(*(f"t{i}" for i in rng.sample(range(60), 20)))
    for step in range(4):
        while True:
            claimed = [*worker.held, *worker.claim(rng.randint(1, 8))]
            for attempt in rng.sample(claimed, min(len(claimed), rng.randint(1, 6))):
                worker.submit(attempt, attempt.task.encode())
            if rng.random() < 0.2:
                trainer.cancel([f"t{rng.randrange(60)}"])
            try:
                batch = trainer.next_batch(n, accept=accept, timeout=0, short=True)
            except WaitTimeout:
                continue
            except Exhausted:
                return
            break
        assert names_of(batch) == ranks_see(lab, step, 2) == ranks_see(lab, step, 3)
        assert not accept.refused & set(names_of(batch))
        assert all(rollout.results == [rollout.task.encode()] for rollout in batch)
        trainer.advance()
    assert len(set(accept.seen)) == len(accept.seen)


def test_a_successor_gets_the_sealed_batch_in_its_order_and_judges_nothing(lab: Lab):
    first, worker, accept = lab.trainer(consumer_batch_size=4), lab.worker(), Filter("t9")
    first.enqueue(tasks(4))
    attempts = worker.claim(4)
    worker.submit(attempts[3], b"x")
    poll(first, accept)
    for attempt in attempts[:3]:
        worker.submit(attempt, b"x")
    order = names_of(first.next_batch(accept=accept, timeout=PATIENCE_S))
    assert order == names_of(first.next_batch(accept=accept, timeout=PATIENCE_S)), "asked again"

    again, unasked = lab.trainer(reopen=True), Filter("t0")
    assert names_of(again.next_batch(accept=unasked, timeout=PATIENCE_S)) == order == ["t0", "t1", "t2", "t3"]
    assert unasked.seen == []


def test_a_batch_formed_ahead_has_the_order_of_the_sealed_one(lab: Lab, trainer: Any):
    worker, accept = lab.worker(), Filter()
    trainer.enqueue(tasks(8))
    for attempt in worker.claim(4):
        worker.submit(attempt, b"x")
    later = worker.claim(4)
    worker.submit(later[3], b"x")
    trainer.next_batch(accept=accept, prefetch=True, timeout=PATIENCE_S)
    with pytest.raises(WaitTimeout):
        trainer.next_batch(accept=accept, prefetch=True, timeout=0.2)
    for attempt in later[:3]:
        worker.submit(attempt, b"x")
    batch = trainer.next_batch(accept=accept, prefetch=True, timeout=PATIENCE_S)
    assert names_of(batch) == ranks_see(lab, 1, 2) == ["t4", "t5", "t6", "t7"]
    assert sorted(accept.seen) == [f"t{i}" for i in range(8)]


# -- once --------------------------------------------------------------------------------------------------------------


def test_polls_judge_and_read_each_rollout_once(lab: Lab, trainer: Any):
    """Three quarters are there, the filter refuses one of them, and the batch is asked for ten times."""
    worker, accept, size = lab.worker(), Filter("t1"), 256 * 1024
    trainer.enqueue(tasks(5))
    attempts = worker.claim(5)
    for attempt in attempts[:3]:
        worker.submit(attempt, bytes(size))
    before = bytes_sent(lab)
    for _ in range(10):
        poll(trainer, accept)
    assert accept.seen == ["t0", "t1", "t2"]
    assert bytes_sent(lab) - before < 4 * size
    for attempt in attempts[3:]:
        worker.submit(attempt, bytes(size))
    assert names_of(trainer.next_batch(accept=accept, timeout=PATIENCE_S)) == ["t0", "t2", "t3", "t4"]
    assert accept.seen == [f"t{i}" for i in range(5)]
    assert bytes_sent(lab) - before < 6 * size


def test_a_filter_that_is_another_each_time_judges_anew_and_reads_once(lab: Lab, trainer: Any):
    worker, filters, size = lab.worker(), [Filter() for _ in range(10)], 256 * 1024
    trainer.enqueue(tasks(4))
    for attempt in worker.claim(3):
        worker.submit(attempt, bytes(size))
    before = bytes_sent(lab)
    for accept in filters:
        poll(trainer, accept)
    assert [accept.seen for accept in filters] == [["t0", "t1", "t2"]] * 10
    assert bytes_sent(lab) - before < 4 * size


def test_large_payloads_are_read_once_too(lab: Lab, trainer: Any):
    worker, accept, size = lab.worker(), Filter(), 256 * 1024
    trainer.enqueue(tasks(4, payload=bytes(size)))
    for attempt in worker.claim(3):
        worker.submit(attempt, b"x")
    before = bytes_sent(lab)
    for _ in range(10):
        poll(trainer, accept)
    run_one(worker)
    assert len(trainer.next_batch(accept=accept, timeout=PATIENCE_S)) == 4
    assert bytes_sent(lab) - before < 6 * size, "four to the trainer, one to the worker"


def bytes_sent(lab: Lab) -> int:
    """What the server has sent to all clients; 0 where it does not count."""
    if lab.url.startswith("fakeredis"):
        return 0
    info = lab.command("INFO", "stats")
    (line,) = [line for line in info.splitlines() if line.startswith(b"total_net_output_bytes:")]
    return int(line.partition(b":")[2])


def test_a_wait_looks_again_without_judging_again(lab: Lab, trainer: Any, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(batches, "LOOK_AGAIN_S", 0.02)
    worker, accept = lab.worker(), Filter()
    trainer.enqueue(tasks(4))
    run_one(worker)
    with pytest.raises(WaitTimeout):
        trainer.next_batch(accept=accept, timeout=0.5)
    assert accept.seen == ["t0"]


def test_what_was_judged_before_a_filter_failed_is_not_judged_again(lab: Lab, trainer: Any):
    worker, seen = lab.worker(), list[str]()

    def accept(rollout: Rollout) -> bool:
        seen.append(rollout.task)
        if len(seen) == 3:
            raise OSError("the judge is away")
        return rollout.task != "t0"

    trainer.enqueue(tasks(5))
    for _ in range(5):
        run_one(worker)
    with pytest.raises(OSError, match="the judge is away"):
        trainer.next_batch(accept=accept, timeout=PATIENCE_S)
    assert names_of(trainer.next_batch(accept=accept, timeout=PATIENCE_S)) == ["t1", "t2", "t3", "t4"]
    assert seen == ["t0", "t1", "t2", "t2", "t3", "t4"]
    assert lab.row("t0").state == "rejected"


def test_another_filter_judges_all_anew(lab: Lab, trainer: Any):
    worker, first, second = lab.worker(), Filter(), Filter("t0")
    trainer.enqueue(tasks(5))
    for _ in range(3):
        run_one(worker)
    poll(trainer, first)
    poll(trainer, second)
    assert (first.seen, second.seen) == (["t0", "t1", "t2"],) * 2
    for _ in range(2):
        run_one(worker)
    assert names_of(trainer.next_batch(accept=second, timeout=PATIENCE_S)) == ["t1", "t2", "t3", "t4"]


def test_a_method_is_the_same_filter_each_time(lab: Lab, trainer: Any):
    class Judge:
        def __init__(self) -> None:
            self.seen: list[str] = []

        def accept(self, rollout: Rollout) -> bool:
            self.seen.append(rollout.task)
            return True

    worker, judge = lab.worker(), Judge()
    trainer.enqueue(tasks(4))
    run_one(worker)
    for _ in range(3):
        poll(trainer, judge.accept)
    assert judge.seen == ["t0"]
    poll(trainer, Judge().accept)


def test_a_lambda_made_anew_for_each_call_is_the_same_filter(lab: Lab, trainer: Any):
    worker, seen = lab.worker(), list[str]()

    def ask(limit: float) -> None:
        poll(trainer, lambda rollout: seen.append(rollout.task) is None and limit > 0)

    trainer.enqueue(tasks(4))
    run_one(worker)
    for _ in range(3):
        ask(0.5 * len("ab"))  # each time another object
    assert seen == ["t0"]
    ask(0.5)
    assert seen == ["t0", "t0"], "with another value"


@pytest.mark.parametrize(
    ("make", "values"),
    [
        (lambda value: lambda _: value, (1, 2)),
        (lambda value: lambda _, limit=value: limit, (1000.5, 1)),
        (lambda value: lambda _, *, limit=value: limit, ("a", "b")),
        (lambda value: partial(max, value, key=value), (b"a", b"b")),
        (lambda value: lambda _: value, ([], [])),  # what they hold may change
        (lambda value: partial(max, **{value: 1}), ("key", "default")),
        (lambda value: lambda _: value, (True, 1)),
    ],
)  # fmt: skip
def test_a_filter_is_its_code_and_its_values(make: Callable[[Any], Any], values: tuple[Any, Any]):
    one, other = values
    assert Gathered(make(one)).is_by(make(one))
    assert not Gathered(make(one)).is_by(make(other))
    assert not Gathered(make(one)).is_by(max)


def test_a_filter_that_fails_while_the_next_batch_is_formed_ahead_is_asked_again(lab: Lab, trainer: Any):
    worker, seen = lab.worker(), list[str]()

    def accept(rollout: Rollout) -> bool:
        seen.append(rollout.task)
        if len(seen) == 6:
            raise OSError("the judge is away")
        return True

    trainer.enqueue(tasks(8))
    for _ in range(8):
        run_one(worker)
    assert len(trainer.next_batch(accept=accept, prefetch=True, timeout=PATIENCE_S)) == 4
    with pytest.raises(OSError, match="the judge is away"):
        trainer.next_batch(accept=accept, prefetch=True, timeout=PATIENCE_S)
    batch = trainer.next_batch(accept=accept, prefetch=True, timeout=PATIENCE_S)
    assert names_of(batch) == ["t4", "t5", "t6", "t7"] == ranks_see(lab, 1, 2)
    assert seen == ["t0", "t1", "t2", "t3", "t4", "t5", "t5", "t6", "t7"]


def test_a_task_that_comes_back_with_other_samples_is_judged_anew(lab: Lab, trainer: Any):
    worker, accept = lab.worker(), Filter()
    trainer.enqueue(tasks(4))
    for _ in range(3):
        run_one(worker, b"old")
    poll(trainer, accept)
    assert trainer.cancel(["t1"]) == {"t1": "cancelled"}
    assert trainer.retry(["t1"]) == {"t1": "retried"}
    for _ in range(2):
        run_one(worker, b"new")
    batch = trainer.next_batch(accept=accept, timeout=PATIENCE_S)
    assert {rollout.task: rollout.results for rollout in batch} == {
        "t0": [b"old"],
        "t2": [b"old"],
        "t1": [b"new"],
        "t3": [b"new"],
    }
    assert accept.seen == ["t0", "t1", "t2", "t3", "t1"]


def test_what_left_the_unsealed_batch_is_forgotten(lab: Lab, trainer: Any):
    worker, accept = lab.worker(), Filter()
    trainer.enqueue(tasks(6))
    for _ in range(3):
        run_one(worker)
    poll(trainer, accept)
    trainer.discard(["t0"])
    trainer.cancel(["t2"])
    poll(trainer, accept)
    for _ in range(3):
        run_one(worker)
    assert names_of(trainer.next_batch(accept=accept, timeout=PATIENCE_S)) == ["t1", "t3", "t4", "t5"]
    assert accept.seen == [f"t{i}" for i in range(6)]


def test_a_recovery_forgets_what_was_judged(lab: Lab, trainer: Any):
    worker, accept = lab.worker(), Filter()
    trainer.enqueue(tasks(4))
    for _ in range(3):
        run_one(worker)
    poll(trainer, accept)
    trainer.recover()
    poll(trainer, accept)
    run_one(worker)
    assert names_of(trainer.next_batch(accept=accept, timeout=PATIENCE_S)) == ["t0", "t1", "t2", "t3"]
    assert accept.seen == ["t0", "t1", "t2"] * 2 + ["t3"]


def test_a_batch_formed_with_a_filter_and_then_without_one_is_the_sealed_one(lab: Lab, trainer: Any):
    worker, accept = lab.worker(), Filter()
    trainer.enqueue(tasks(4))
    attempts = worker.claim(4)
    worker.submit(attempts[2], b"x")
    poll(trainer, accept)
    for attempt in (attempts[i] for i in (3, 0, 1)):
        worker.submit(attempt, b"x")
    assert names_of(trainer.next_batch(timeout=PATIENCE_S)) == ["t0", "t1", "t2", "t3"] == ranks_see(lab, 0, 4)


def test_a_trainer_that_goes_on_with_an_unsealed_batch_judges_it(lab: Lab):
    first, worker, accept = lab.trainer(consumer_batch_size=4), lab.worker(), Filter()
    first.enqueue(tasks(5))
    for _ in range(3):
        run_one(worker)
    poll(first, accept)
    again, judge = lab.trainer(reopen=True), Filter("t1")
    poll(again, judge)
    assert judge.seen == ["t0", "t1", "t2"]
    assert lab.row("t1").state == "rejected"


def test_an_answer_that_was_lost_hides_nothing_from_the_filter(lab: Lab, monkeypatch: pytest.MonkeyPatch):
    """A take whose answer was lost took one task, and an operator cancelled another: the size is as before."""
    trainer, worker, accept = lab.trainer(consumer_batch_size=4), lab.worker(), Filter("t3")
    trainer.enqueue(tasks(6))
    for _ in range(3):
        run_one(worker)
    poll(trainer, accept)
    run_one(worker)
    interrupted = interrupt_after(trainer, monkeypatch)
    with pytest.raises(KeyboardInterrupt):
        trainer.next_batch(accept=accept, timeout=0)
    assert interrupted == ["take"]
    trainer.cancel(["t0"])
    poll(trainer, accept)
    assert accept.seen == ["t0", "t1", "t2", "t3"]
    assert lab.row("t3").state == "rejected"


def test_a_repeated_answer_hides_nothing_from_the_filter(lab: Lab, monkeypatch: pytest.MonkeyPatch):
    """The connection broke before a take's answer, and an operator had cancelled one task: the size is as before."""
    trainer, worker, accept = lab.trainer(consumer_batch_size=4), lab.worker(), Filter("t3")
    trainer.enqueue(tasks(6))
    for _ in range(3):
        run_one(worker)
    poll(trainer, accept)
    run_one(worker)
    trainer.cancel(["t0"])
    io = trainer._transport.io
    execute = blocking(io.execute)

    def twice(script_calls: Any, *_: Any) -> Any:
        if script_calls[0].script == "take":
            monkeypatch.setattr(io, "execute", coroutine(execute))
            execute(script_calls)
        return execute(script_calls)

    monkeypatch.setattr(io, "execute", coroutine(twice))
    poll(trainer, accept)
    assert accept.seen == ["t0", "t1", "t2", "t3"]
    assert lab.row("t3").state == "rejected"


def interrupt_after(trainer: Trainer, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The answer of the trainer's next round trip is lost. Gives the name of its first script, once it was sent."""
    io, made = trainer._transport.io, list[str]()
    execute = blocking(io.execute)

    def interrupted(script_calls: Any, *_: Any) -> Any:
        made.append(script_calls[0].script)
        monkeypatch.setattr(io, "execute", coroutine(execute))
        execute(script_calls)
        raise KeyboardInterrupt

    monkeypatch.setattr(io, "execute", coroutine(interrupted))
    return made


# -- the call beneath --------------------------------------------------------------------------------------------------


def fill(trainer: Any, n: int, rows: int) -> calls.Taken:
    """A take of batch 0 that does not seal."""
    return trainer.send(calls.take, 0, n, limit=100, seal=False, rows=rows, result_bytes=1000)


def test_a_take_that_does_not_seal_brings_the_rows_of_all_that_it_took(lab: Lab):
    """Mutants: takes_more_than_it_tells, takes_any_number_of_slots."""
    trainer, worker = lab.raw_trainer(consumer_batch_size=9), lab.raw_worker()
    trainer.enqueue(*"abc")
    worker.work(3)
    first = fill(trainer, 9, 2)
    assert ([row.task for row in first.rows], first.size, first.more) == (["a", "b"], 2, True)
    second = fill(trainer, 9, 2)
    assert ([row.task for row in second.rows], second.size, second.more) == (["c"], 3, False)
    assert ([row.first for row in (*first.rows, *second.rows)], second.results) == ([1, 2, 3], (b"x",))
    assert (fill(trainer, 9, 2).rows, fill(trainer, 9, 0).rows) == ((), ())

    trainer.enqueue("d", "e", samples=600)
    for _ in range(12):
        worker.work(100)
    assert [row.task for row in fill(trainer, 9, 9).rows] == ["d"]
    assert [row.task for row in fill(trainer, 9, 9).rows] == ["e"]


def test_what_a_take_reset_is_not_told_of(lab: Lab):
    """Mutants: tells_of_what_it_reset."""
    trainer, worker = (
        lab.raw_trainer(consumer_batch_size=1, max_staleness=1, staleness_limit=1, max_concurrent_rollouts=9),
        lab.raw_worker(),
    )
    trainer.enqueue("a", "b")
    worker.work(2)
    for step in (0, 1):
        trainer.send(calls.advance, step, "-", allow_empty=True)
    taken = trainer.send(calls.take, 2, 1, limit=100, seal=False, rows=9, result_bytes=1000)
    assert (taken.size, taken.rows) == (0, ())


def test_a_batch_of_more_than_a_call_brings_is_judged_once(lab: Lab):
    trainer, accept = lab.trainer(consumer_batch_size=300, max_concurrent_rollouts=999), Filter()
    worker = lab.worker()
    trainer.enqueue(tasks(300))
    submit_all(worker)
    batch = trainer.next_batch(accept=accept, timeout=PATIENCE_S)
    assert names_of(batch) == accept.seen == [f"t{i}" for i in range(300)]


def submit_all(worker: Worker) -> None:
    while attempts := worker.claim(64):
        worker.submit_many([(attempt, b"x") for attempt in attempts])
