"""The guarantees of docs/protocol.md, by number; G4 and the capacity formula are in test_capacity, G7 in test_replays."""

import pytest

from broker import Task, Worker
from broker.connections.sync import run_blocking
from broker.operator import Operator
from broker.protocol import anyone, result_bytes
from broker.protocol import worker as worker_calls
from tests.conformance.lab import Lab, names_of, run_one, tasks

ENDS = {"consumed", "dead", "rejected"}


def test_late_result_of_a_requeued_task_is_refused_and_the_trainer_gets_exactly_one(lab: Lab):
    """The bug of agent-lightning. Mutants: no_compare_and_set, compare_without_random."""
    trainer = lab.trainer(consumer_batch_size=1, lease_ms=1_000, max_staleness=5)
    slow, fast = lab.worker(name="slow"), lab.worker(name="fast", lease_s=3600.0)
    trainer.enqueue([Task(id="t"), Task(id="u")])
    (first,) = slow.claim()
    lab.pass_ms(1_000)
    (second,) = fast.claim()
    assert (first.task, second.task) == ("t", "t")

    before = slow.submit(first, "late, while the other works")
    accepted = fast.submit(second, "in time")
    after = slow.submit(first, "late, after the other")

    assert accepted.answer == "accepted"
    for late in (before, after):
        assert (late.answer, late.by_attempt, late.by_worker) == ("superseded", second.id, "fast")
    (rollout,) = trainer.next_batch(timeout=1)
    assert (rollout.task, rollout.results) == ("t", ["in time"])
    trainer.advance()
    assert slow.submit(first, "much too late").answer == "superseded"
    assert run_one(fast, "other") == "u"
    (other,) = trainer.next_batch(timeout=1)
    assert (other.task, other.results) == ("u", ["other"])
    assert trainer.stats().totals["late"] == 3
    assert lab.history().results == {"t": [second.id], "u": [other.samples[0].attempt_id]}


@pytest.mark.parametrize("size", [10, 100_000])
def test_g2_a_slot_accepts_one_result(lab: Lab, size: int):
    """Mutants: no_compare_and_set."""
    trainer, worker = lab.trainer(consumer_batch_size=1), lab.worker()
    trainer.enqueue(Task(id="t"))
    (attempt,) = worker.claim()
    answers = [worker.submit(attempt, bytes([i]) * size) for i in range(3)]

    assert [answer.answer for answer in answers] == ["accepted"] * 3
    (rollout,) = trainer.next_batch(timeout=1)
    assert rollout.results == [b"\0" * size]
    assert lab.kinds().count("done") == 1


@pytest.mark.parametrize("field", ["claims", "random", "slot", "zeros", "task"])
def test_g3_an_attempt_is_recognised_by_equality_of_its_whole_id(lab: Lab, field: str):
    """A server that went back in time may issue the same number again: only the random part differs.

    Mutants: compare_without_random, slots_by_number_however_written.
    """
    trainer, worker = lab.raw_trainer(consumer_batch_size=5), lab.raw_worker()
    trainer.enqueue("t", "u")
    held = worker.take_one()
    assert held.startswith("t#0.1.")
    random = held.rpartition(".")[2]
    forged = {
        "claims": f"t#0.2.{random}",
        "random": "t#0.1.ffff",
        "slot": f"t#1.1.{random}",
        "zeros": f"t#00.0.{random}",
        "task": f"u#0.1.{random}",
    }[field]

    assert worker.submit(forged).word == "unknown"
    assert worker.submit(forged, verdict="reject").word == "unknown"
    assert [answer.word for answer in worker.release(forged)] == ["unknown"]
    assert worker.fail(forged).word == "unknown"
    assert lab.row("t").letters == "H"
    assert worker.submit(held).word == "accepted"


def test_g1_every_task_is_in_one_state_and_ends(lab: Lab):
    """A storm of releases, errors, expiries, verdicts and advances; at the end all tasks have ended."""
    trainer = lab.trainer(
        consumer_batch_size=3,
        max_staleness=1,
        max_concurrent_rollouts=5,
        lease_ms=500,
        retry_backoff_ms=10,
        max_attempts=3,
        halt_after_failures=0,
    )
    count = 30 if lab.server.kind.is_real else 10
    trainer.enqueue(
        Task(id=f"t{i}", samples=1 + i % 3, min_samples=1 + (i % 3) // 2, priority=i % 2) for i in range(count)
    )
    worker = lab.worker()
    turn = 0
    while not set(lab.states().values()) <= ENDS:
        turn += 1
        assert turn < 400, lab.states()
        for i, attempt in enumerate(worker.claim(4)):
            match (turn + i) % 7:
                case 0:
                    worker.release(attempt)
                case 1:
                    worker.fail(attempt, "boom")
                case 2 if turn % 2:
                    worker.reject(attempt, "bad")
                case 3:
                    lab.pass_ms(501)  # everything held now expires
                    worker = lab.worker()
                case _:
                    worker.submit(attempt, b"x")
        lab.pass_ms(10)
        stats = trainer.stats()
        counted = stats.pending + stats.delayed + stats.running + stats.ready + stats.batched + stats.dead
        sealed = sum(state in {"sealed", "consumed"} for state in lab.states().values())
        assert counted + stats.rejected + sealed == count
        assert trainer.audit().ok
        if stats.ready >= 3 or stats.ready == count - sealed - stats.dead - stats.rejected > 0:
            trainer.next_batch(timeout=1, short=True)
            trainer.advance()
    consumed = [task for batch in lab.history().sealed.values() for task in batch]
    assert len(consumed) == len(set(consumed)) == trainer.stats().consumed
    assert trainer.stats().consumed + trainer.stats().dead + trainer.stats().rejected == count


@pytest.mark.parametrize("staleness", [0, 1, 3])
def test_g5_no_batch_holds_a_rollout_that_is_too_old(lab: Lab, staleness: int):
    """One straggler is overtaken for ever under the plain formula. Mutants: take_ignores_staleness."""
    trainer = lab.trainer(consumer_batch_size=1, max_staleness=staleness, max_concurrent_rollouts=99)
    straggler, worker = lab.worker(name="straggler"), lab.worker()
    trainer.enqueue(tasks(10 + staleness))
    (slow,) = straggler.claim()
    for step in range(staleness + 3):
        attempts = worker.claim()
        if attempts:
            worker.submit(attempts[0], step)
        if step == staleness:
            straggler.submit(slow, "just in time")
        (rollout,) = trainer.next_batch(timeout=1) if lab.stat("n_ready") else [None]
        if rollout is None:
            trainer.advance(allow_empty=True)
        else:
            assert 0 <= rollout.staleness <= staleness
            trainer.advance()
    assert lab.history().problems == []


def test_g5_a_result_that_waited_too_long_is_done_again(lab: Lab):
    """Mutants: take_ignores_staleness."""
    limits = {"max_staleness": 1, "staleness_limit": 1, "max_concurrent_rollouts": 9}
    trainer, worker = lab.trainer(consumer_batch_size=1, **limits), lab.worker()
    trainer.enqueue(tasks(2))
    first, second = worker.claim(2)
    worker.submit(second, "old")
    trainer.advance(allow_empty=True)
    worker.submit(first, "older")
    trainer.advance(allow_empty=True)

    taken = InvisibleTake(lab, trainer)

    assert taken.size == 0
    assert lab.states() == {"t0": "pending", "t1": "pending"}
    assert lab.result_keys() == set()
    assert [attempt.version for attempt in worker.claim(2)] == [2, 2]


class InvisibleTake:
    """A take on a trainer's channel without waiting."""

    def __init__(self, lab: Lab, trainer) -> None:
        from broker.protocol import trainer as calls

        numbered = trainer._state.numbered
        step, n = trainer.version, trainer.config.batch_size
        taken = numbered.call(lambda call_id: calls.take(lab.run, call_id, step, n, limit=100, seal=True, now=lab.now))
        self.size = run_blocking(taken).size


def test_g9_a_worker_whose_session_expired_joins_anew(lab: Lab):
    trainer, worker = lab.trainer(consumer_batch_size=4, lease_ms=1_000), lab.worker()
    trainer.enqueue(tasks(2))
    (attempt,) = worker.claim()
    before = worker.sessions[lab.run]
    lab.pass_ms(1_000)
    trainer.requeue()

    (again,) = worker.claim()

    assert (again.task, again.tries) == ("t0", 1)
    assert worker.sessions[lab.run] != before
    assert attempt.cancelled
    assert attempt.cancel_reason == "expired"
    assert worker.submit(again, b"x").answer == "accepted"


def test_g9_a_claim_that_gives_nothing_says_why(lab: Lab):
    trainer, worker = lab.trainer(consumer_batch_size=2, max_staleness=0, max_concurrent_rollouts=9), lab.worker()

    def reason() -> str:
        assert worker.claim(5) == []
        return worker.claim_reason

    assert reason() == "empty"
    trainer.enqueue(tasks(9))
    trainer.pause()
    assert reason() == "paused"
    trainer.drain()
    assert reason() == "draining"
    trainer.resume()
    first, second = worker.claim(5)
    assert worker.claim_reason == "at_capacity"
    assert reason() == "at_capacity"
    worker.submit(first, b"x")
    worker.submit(second, b"x")
    trainer.next_batch(timeout=1)
    assert reason() == "at_capacity"
    old = lab.worker(policy=worker.sessions and first.policy)
    trainer.advance()
    assert old.claim() == []
    assert old.claim_reason == "weights_stale"
    assert len(worker.claim(2)) == 2
    assert worker.claim_reason == ""


def test_no_safety_property_depends_on_the_clock(lab: Lab):
    """The clock of the state never goes back, so that a failover to an older clock expires nothing twice.

    Mutants: clock_goes_back.
    """
    trainer, worker = lab.trainer(consumer_batch_size=2, lease_ms=1_000), lab.worker()
    trainer.enqueue(tasks(1))
    (attempt,) = worker.claim()
    lab.pass_ms(-500_000)
    worker.renew()
    assert lab.stat("now") == 1_000_000
    assert lab.call(anyone.facts).sessions[0].deadline_ms == 1_001_000
    assert worker.submit(attempt, b"x").answer == "accepted"


def test_an_attempt_id_is_never_issued_again(lab: Lab):
    trainer, worker = lab.trainer(consumer_batch_size=1, retry_backoff_ms=0, max_attempts=99), lab.worker()
    trainer.enqueue(tasks(1))
    seen: set[str] = set()
    for turn in range(8):
        (attempt,) = worker.claim()
        assert attempt.id not in seen
        seen.add(attempt.id)
        match turn % 4:
            case 0:
                worker.release(attempt)
            case 1:
                worker.fail(attempt, "boom")
            case 2:
                worker.reject(attempt)
                trainer.retry(["t0"])
            case _:
                trainer.cancel(["t0"])
                trainer.retry(["t0"])
    assert {id.rpartition(".")[0] for id in seen} == {f"t0#0.{n}" for n in range(1, 9)}


def test_a_session_id_is_never_used_again(lab: Lab):
    lab.trainer()
    sessions = [lab.worker(name="same").sessions[lab.run] for _ in range(3)]
    assert [session.partition(".")[0] for session in sessions] == ["same~1", "same~2", "same~3"]
    lab.close_clients()
    assert lab.raw_worker("same").session.startswith("same~4.")


def test_closing_a_worker_gives_back_what_it_holds(lab: Lab):
    trainer = lab.trainer(consumer_batch_size=9)
    trainer.enqueue(tasks(5))
    with Worker(lab.url, lab.run, clock=lab.clock, heartbeat=False) as worker:
        held = worker.claim(5)
        assert worker.held == held
    assert trainer.stats().pending == 5
    assert trainer.stats().sessions == 0
    assert {attempt.cancel_reason for attempt in held} == {"stopped"}


def test_a_trainer_opened_later_fences_the_one_before(lab: Lab):
    """Mutants: no_fence."""
    from broker.errors import Fenced

    old, worker = lab.trainer(consumer_batch_size=1), lab.worker()
    old.enqueue(tasks(3))
    run_one(worker)
    new = lab.trainer(reopen=True)
    assert int(new.epoch.partition(".")[0]) == int(old.epoch.partition(".")[0]) + 1
    before = lab.dump()
    for call in (
        lambda: old.enqueue(tasks(1, "late")),
        lambda: old.next_batch(timeout=0),
        lambda: old.discard(["t0"]),
        lambda: old.cancel(["t0"]),
        lambda: old.retry(["t0"]),
        lambda: old.advance(allow_empty=True),
        old.pause,
        lambda: old.audit(repair=True),
    ):
        with pytest.raises(Fenced) as caught:
            call()
        assert caught.value.fields["epoch"] == new.epoch
    assert lab.dump() == before
    assert names_of(new.next_batch(timeout=1)) == ["t0"]
    assert old.stats().version == 0


def test_the_operators_see_the_run(lab: Lab):
    trainer, worker = lab.trainer(consumer_batch_size=3), lab.worker()
    trainer.enqueue(Task(id="t", payload=b"12345", samples=2, priority=3))
    (attempt,) = worker.claim()
    with Operator(lab.url) as operator:
        assert operator.runs() == [lab.run]
        row = operator.task(lab.run, "t")
        explanation = operator.explain(lab.run)
    assert row is not None
    assert (row.state, row.samples, row.priority, row.letters) == ("running", 2, 3, "HO")
    assert (row.slots[0].attempt_id, row.slots[0].session) == (attempt.id, worker.sessions[lab.run])
    assert [held.attempt_id for held in explanation.held] == [attempt.id]
    assert explanation.binding == "none"
    assert (explanation.by_concurrency, explanation.by_staleness) == (2, 2)


def test_a_run_without_a_bound_takes_rollouts_of_any_age(lab: Lab):
    trainer, worker = lab.trainer(consumer_batch_size=1, max_staleness=None, max_concurrent_rollouts=5), lab.worker()
    trainer.enqueue(tasks(1))
    (attempt,) = worker.claim()
    for _ in range(20):
        trainer.advance(allow_empty=True)
    assert worker.submit(attempt, b"x").answer == "accepted"
    (rollout,) = trainer.next_batch(timeout=1)
    assert (rollout.version, rollout.staleness) == (0, 20)


def test_submits_of_one_call_are_answered_one_by_one(lab: Lab):
    trainer, worker = lab.raw_trainer(consumer_batch_size=9), lab.raw_worker()
    trainer.enqueue("a", "b", "c", samples=1)
    a, b, c = (one.attempt_id for one in worker.claim(3).granted)
    worker.release(b)
    big = b"y" * 20_000
    items = [
        worker_calls.Submission(a, "accept", b"first"),
        worker_calls.Submission(b, "accept", big),
        worker_calls.Submission(c, "reject", b"bad"),
        worker_calls.Submission(a, "accept", b"again"),
        worker_calls.Submission("nobody#0.1.x", "accept", b"x"),
    ]
    words = [answer.word for answer in lab.call(result_bytes.submit_call, items)]
    assert words == ["accepted", "unknown", "rejected", "accepted", "unknown"]
    assert lab.dump()[f"result:{a}"] == b"first"
    assert lab.result_keys() == {a}
