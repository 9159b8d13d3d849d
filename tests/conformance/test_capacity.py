"""AReaL's capacity formula, with counters that stay right."""

import itertools

import pytest

from broker import RunConfig, Task, Trainer
from broker.operator import Operator
from broker.protocol import result_bytes
from broker.protocol import trainer as calls
from broker.protocol import worker as worker_calls
from broker.protocol.trainer import NewTask
from tests.conformance.lab import Lab, run_one, tasks


def areal(staleness: int, version: int, batch: int, accepted: int, running: int, concurrency: int) -> int:
    """AReaL's formula (docs/protocol.md, Capacity), with the stored counter `accepted`."""
    batch, concurrency = max(1, batch), max(1, concurrency)
    return min(concurrency - running, (staleness + version + 1) * batch - (accepted + running))


def reach(lab: Lab, run: str, config: RunConfig, version: int, finished: int, running: int) -> None:
    """Makes script calls in one pipeline: `steps` advances without a batch, then tasks that are finished or running."""
    total = finished + running
    run_calls = [calls.open_run(run, "token123", config.to_fields(), now=lab.now)]
    numbers = itertools.count(1)

    def call_id() -> calls.CallId:
        return calls.trainer_call_id("token123", next(numbers))

    run_calls += [calls.advance(run, call_id(), step, "-", allow_empty=True, now=lab.now) for step in range(version)]
    run_calls.append(calls.enqueue(run, call_id(), [NewTask(f"t{i}", b"") for i in range(total + 3)], now=lab.now))
    run_calls.append(worker_calls.join(run, "w", "n1", now=lab.now))
    answers = lab.transport.execute(run_calls)
    session = answers[-1].session
    for i in range(total):
        (claimed,) = lab.transport.execute([worker_calls.claim(run, session, i + 1, 1, "r", now=lab.now)])
        assert len(claimed.granted) == 1, "the state is not within reach"
        if i < finished:
            submission = worker_calls.Submission(claimed.granted[0].attempt_id, "accept", b"x")
            lab.transport.execute([result_bytes.submit_call(run, [submission], now=lab.now)])


@pytest.mark.parametrize("staleness", [0, 1, 2, 5])
@pytest.mark.parametrize("batch", [0, 1, 4])
def test_the_formula(lab: Lab, staleness: int, batch: int):
    """Mutants: capacity_off_by_one, accepted_not_counted."""
    b, states = max(1, batch), 0
    real = lab.server.kind.is_real
    for version, concurrency in itertools.product([0, 1, 7] if real else [3], [0, 1, 3, 100] if real else [0, 3, 100]):
        room = (staleness + 1) * b
        for finished, running in {(0, 0), (1, 0), (0, 1), (1, 2), (room - 1, 1), (room, 0), (0, room)}:
            if finished + running > room or running > max(1, concurrency) or finished < 0:
                continue
            run = f"{lab.run}/{states}"
            lab.runs.add(run)
            states += 1
            config = RunConfig(consumer_batch_size=batch, max_staleness=staleness, max_concurrent_rollouts=concurrency)
            reach(lab, run, config, version, finished, running)
            trainer = Trainer(lab.url, run, attach=True, clock=lab.clock)
            stats = trainer.stats()
            trainer.close()
            accepted = version * b + finished
            assert (stats.version, stats.accepted, stats.running) == (version, accepted, running)
            expected = areal(staleness, version, batch, accepted, running, concurrency)
            assert stats.capacity == expected, (version, concurrency, finished, running)
            lab.purge()
            lab.runs.clear()
    assert states > (20 if real else 5)


def test_without_a_bound_on_staleness_only_concurrency_counts(lab: Lab):
    trainer, worker = lab.trainer(consumer_batch_size=1, max_staleness=None, max_concurrent_rollouts=7), lab.worker()
    trainer.enqueue(tasks(20))
    assert trainer.capacity() == 7
    for _ in range(10):
        run_one(worker)
    assert trainer.capacity() == 7
    assert len(worker.claim(20)) == 7
    assert trainer.capacity() == 0
    assert worker.claim(1) == []
    assert worker.claim_reason == "max_concurrent"


def test_a_free_worker_gets_a_sample_where_samples_are_bounded_and_not_tasks(lab: Lab):
    """Three of four samples are done, and one worker is free. Mutants: a_bound_on_samples_leaves_that_on_tasks."""
    config = {"consumer_batch_size": 1, "max_staleness": 4}
    trainer, worker = lab.trainer(**config, max_concurrent_samples=4), lab.worker()
    trainer.enqueue(Task(id=f"t{i}", samples=4) for i in range(9))
    first = worker.claim(9)
    assert [attempt.task for attempt in first] == ["t0"] * 4
    assert (worker.claim_reason, trainer.capacity(), trainer.stats().held) == ("max_samples", 0, 4)
    assert trainer.explain().binding == "samples"
    for attempt in first[:3]:
        worker.submit(attempt, b"x")
    assert trainer.stats().held == 1
    assert [attempt.task for attempt in worker.claim(9)] == ["t1"] * 3
    assert lab.command("ZCARD", lab.key("open")) == 1


def test_a_claim_hands_out_no_more_samples_than_may_be_held(lab: Lab):
    """Open slots too. Mutants: open_slots_may_be_held_beyond_the_bound, held_is_not_counted."""
    trainer = lab.trainer(consumer_batch_size=9, max_concurrent_samples=3, max_concurrent_rollouts=1)
    worker, other = lab.worker(), lab.worker()
    trainer.enqueue(Task(id=f"t{i}", samples=4) for i in range(9))
    held = worker.claim(1) + other.claim(9)
    assert [(attempt.task, attempt.slot) for attempt in held] == [("t0", 0), ("t0", 1), ("t0", 2)]
    assert (worker.claim(1), worker.claim_reason) == ([], "max_samples")
    trainer.configure(max_concurrent_samples=4)
    assert [attempt.slot for attempt in worker.claim(2)] == [3]
    trainer.configure(max_concurrent_samples=None)
    assert trainer.stats().held is None
    assert (worker.claim(1), worker.claim_reason) == ([], "max_concurrent")


@pytest.mark.parametrize(
    "end", ["submit", "reject", "fail", "fault", "release", "leave", "expire", "time out", "cancel"]
)
def test_each_end_of_an_attempt_lets_another_sample_be_held(lab: Lab, end: str):
    """Its task goes on. Mutants: an_end_frees_no_sample, no_wake_of_those_who_wait_for_a_sample."""
    limits = {"max_concurrent_samples": 2, "max_staleness": None, "retry_backoff_ms": 60_000}
    trainer = lab.trainer(consumer_batch_size=9, **limits, attempt_timeout_ms=5_000 if end == "time out" else 0)
    lost, worker = lab.worker(), lab.worker()
    trainer.enqueue([Task(id="a", samples=2, min_samples=1, max_attempts=1), Task(id="b", samples=2)])
    (attempt,) = lost.claim(1)
    worker.claim(1)
    assert (worker.claim(1), worker.claim_reason) == ([], "max_samples")
    lab.unmark()
    match end:
        case "submit":
            lost.submit(attempt, b"x")
        case "reject":
            lost.reject(attempt)
        case "fail":
            lost.fail(attempt, "no")
        case "fault":
            lost.fail(attempt, "no", kind="worker")
        case "release":
            lost.release([attempt])
        case "leave":
            lost.close()
        case "cancel":
            trainer.cancel(["a"])
        case _:
            for _ in range(9):
                lab.pass_ms(2_000 if end == "time out" else 20_000)
                worker.renew()
                if end == "time out":
                    lost.renew()
            trainer.requeue()
    assert lab.marked()
    assert trainer.stats().held == (0 if end in ("cancel", "time out") else 1)
    assert len(worker.claim(9)) == (2 if end in ("cancel", "time out") else 1)
    assert trainer.audit().ok


def test_samples_that_are_held_are_counted_when_they_are_bounded_first(lab: Lab):
    """And by a repair. Mutants: held_is_counted_from_the_bound_on, held_is_not_audited."""
    trainer, worker = lab.trainer(consumer_batch_size=4, max_staleness=2), lab.worker()
    trainer.enqueue(Task(id=f"t{i}", samples=2) for i in range(4))
    worker.claim(3)
    lab.unmark()
    trainer.configure(max_concurrent_samples=4)
    assert lab.marked()
    assert (trainer.stats().held, trainer.config.bounds_tasks, len(worker.claim(9))) == (3, False, 1)
    lab.command("HSET", lab.key("state"), "held", 9)  # as if a worker of an earlier release had submitted
    with Operator(lab.url) as operator:
        assert operator.audit(lab.run).drift == {"held": (9, 4)}
        assert operator.audit(lab.run, repair=True).repaired
    assert trainer.stats().held == 4
    trainer.configure(max_concurrent_samples=None)
    assert trainer.config.concurrency == 4


def test_version_268_with_nothing_left_has_room_for_12(lab: Lab):
    """The worked case of docs/protocol.md, Capacity: a counter that starts at 0 again would give 1084."""
    config = RunConfig(consumer_batch_size=4, max_staleness=2, max_concurrent_rollouts=10_000)
    reach(lab, lab.run, config, 268, 0, 0)
    assert lab.stat("accepted") == 1_072
    assert lab.stat("capacity") == 12
    assert lab.stat("version") == 268


@pytest.mark.parametrize("concurrency", [1, 3, 100])
@pytest.mark.parametrize("staleness", [0, 2])
def test_a_claim_hands_out_exactly_the_capacity(lab: Lab, staleness: int, concurrency: int):
    """G4. Mutants: start_ignores_capacity."""
    trainer = lab.trainer(consumer_batch_size=2, max_staleness=staleness, max_concurrent_rollouts=concurrency)
    worker = lab.worker()
    trainer.enqueue(Task(id=f"t{i}", samples=2) for i in range(20))
    capacity = trainer.capacity()
    assert capacity == min(concurrency, (staleness + 1) * 2)

    attempts = worker.claim(100)

    assert len({attempt.task for attempt in attempts}) == capacity
    assert len(attempts) == 2 * capacity
    assert trainer.capacity() == 0
    assert worker.claim_reason == ("max_concurrent" if concurrency <= capacity else "at_capacity")


def test_capacity_does_not_drift_when_half_of_the_rollouts_are_filtered_out(lab: Lab):
    """docs/protocol.md, Capacity: without the rule for formed batches it drifts to 840 within 100 steps.

    Mutants: small_batch_counts_its_size.
    """
    trainer = lab.trainer(consumer_batch_size=4, max_staleness=2, max_concurrent_rollouts=1_000, events_maxlen=0)
    worker = lab.worker()
    for step in range(12):
        trainer.enqueue(Task(id=f"s{step}/{i}") for i in range(40))
        n = [2, 4, 7][step % 3]
        kept = 0

        def every_other(rollout: object) -> bool:
            nonlocal kept
            kept += 1
            return kept % 2 == 0

        for _ in range(2 * n):
            attempts = worker.claim(1)
            if attempts:
                worker.submit(attempts[0], b"x")
        got = trainer.next_batch(n, accept=every_other, timeout=0) if feasible(lab, n) else None
        assert trainer.capacity() <= 12
        if got is None:
            trainer.next_batch(1, timeout=1)
        trainer.advance()
        assert trainer.audit().ok
        assert trainer.capacity() <= 12
    trainer.cancel([name for name, state in lab.states().items() if state not in {"consumed", "rejected"}])
    assert trainer.capacity() == 12


def feasible(lab: Lab, n: int) -> bool:
    """Whether at least 2n rollouts are finished, so that a filter of every other one leaves n."""
    return lab.stat("n_ready") >= 2 * n


@pytest.mark.parametrize("n", [1, 3, 4, 6, 12])
def test_a_batch_smaller_or_larger_than_b_settles_at_advance(lab: Lab, n: int):
    trainer = lab.trainer(consumer_batch_size=4, max_staleness=2, max_concurrent_rollouts=99)
    worker = lab.worker()
    trainer.enqueue(tasks(12))
    for _ in range(12):
        run_one(worker)
    assert trainer.capacity() == 0
    trainer.next_batch(n, timeout=1)
    assert trainer.stats().accepted == 12 - n + max(4, n)
    trainer.advance()
    assert trainer.stats().accepted == 4 + 12 - n
    assert trainer.capacity() == (2 + 1 + 1) * 4 - (4 + 12 - n)


def test_a_changed_batch_size_changes_the_counters_with_it(lab: Lab):
    lab.keeps_config = False
    trainer, worker = lab.trainer(consumer_batch_size=2, max_staleness=3, max_concurrent_rollouts=99), lab.worker()
    trainer.enqueue(tasks(10))
    for _ in range(6):
        run_one(worker)
    trainer.next_batch(timeout=1)
    trainer.advance()
    trainer.next_batch(timeout=1)
    for size in (5, 1, 3):
        changed = lab.trainer(update=True, consumer_batch_size=size, max_staleness=3, max_concurrent_rollouts=99)
        assert changed.audit().ok
        assert changed.capacity() == areal(3, 1, size, size + max(size, 2) + 2, 0, 99)
