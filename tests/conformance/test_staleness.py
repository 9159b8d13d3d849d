"""Policies, and tasks that become too old."""

from typing import Any

import pytest

from broker import Policy, Task
from broker.errors import ConfigMismatch
from broker.protocol import result_bytes
from broker.protocol import trainer as calls
from broker.protocol import worker as worker_calls
from tests.conformance.lab import Lab, run_one, tasks


def old_task(lab: Lab, **fields: Any):
    """A task with one sample done and one held, both of version 0, whose turn is over: D = 1, next step 2."""
    limits = {"max_staleness": 1, "staleness_limit": 1, "max_concurrent_rollouts": 9}
    trainer = lab.trainer(**{"consumer_batch_size": 1, **limits, **fields})
    worker = lab.worker()
    trainer.enqueue(Task(id="t", samples=2))
    done, held = worker.claim(2)
    worker.submit(done, b"x")
    trainer.advance(allow_empty=True)
    trainer.advance(allow_empty=True)
    return trainer, worker, done, held


@pytest.mark.parametrize("met_by", ["submit", "claim", "renew", "reject"])
@pytest.mark.parametrize(("on_stale", "state"), [("requeue", "pending"), ("drop", "rejected"), ("keep", "running")])
def test_whatever_meets_a_task_that_is_too_old_resets_all_of_it(lab: Lab, met_by: str, on_stale: str, state: str):
    """Mutants: submit_ignores_staleness, renew_ignores_staleness, claim_ignores_staleness."""
    limits = {"max_staleness": 1, "staleness_limit": 1, "max_concurrent_rollouts": 9}
    trainer = lab.trainer(consumer_batch_size=1, **limits, on_stale=on_stale)
    worker, other = lab.worker(), lab.worker()
    trainer.enqueue(Task(id="t", samples=3))
    done, held = worker.claim(2)  # the third slot stays open, for a claim to meet
    worker.submit(done, b"x")
    trainer.advance(allow_empty=True)
    trainer.advance(allow_empty=True)

    match met_by:
        case "submit":
            answer = worker.submit(held, b"y").answer
            assert answer == ("accepted" if on_stale == "keep" else "stale")
        case "reject":
            answer = worker.reject(held).answer
            assert answer == ("rejected" if on_stale == "keep" else "stale")
            state = "rejected" if on_stale == "keep" else state
        case "renew":
            worker.renew()
            assert held.cancel_reason == (None if on_stale == "keep" else "stale")
        case _:
            claimed = other.claim(9)
            assert [attempt.version for attempt in claimed] == {"requeue": [2, 2, 2], "drop": [], "keep": [2]}[on_stale]
            state = "running" if on_stale == "requeue" else state

    row = lab.row("t")
    assert row.state == state
    if on_stale == "keep":
        return
    assert row.stale_requeues == (1 if on_stale == "requeue" else 0)
    assert row.reason == ("stale" if on_stale == "drop" else "")
    assert trainer.stats().totals["stale"] == 1
    assert lab.result_keys() == set()
    assert worker.submit(held, b"late").answer in {"stale", "superseded"}
    assert worker.submit(done, b"late").answer in {"stale", "superseded", "accepted"}


def test_not_too_old_means_not_touched(lab: Lab):
    """Staleness exactly D is allowed. Mutants: too_old_one_early."""
    trainer, worker = (
        lab.trainer(consumer_batch_size=1, max_staleness=2, staleness_limit=2, max_concurrent_rollouts=9),
        lab.worker(),
    )
    trainer.enqueue(tasks(1))
    (attempt,) = worker.claim()
    trainer.advance(allow_empty=True)
    trainer.advance(allow_empty=True)
    worker.renew()
    assert not attempt.cancelled
    assert worker.submit(attempt, b"x").answer == "accepted"
    (rollout,) = trainer.next_batch(timeout=1)
    assert rollout.staleness == 2


def test_tasks_are_admitted_by_the_one_number_and_reset_by_the_other(lab: Lab):
    """S = 1 lets B * (S + 1) tasks start; D = 3 is the staleness at which one that was overtaken starts over.

    Mutants: the_limit_of_age_is_the_staleness, admission_by_the_limit.
    """
    trainer = lab.trainer(consumer_batch_size=1, max_staleness=1, staleness_limit=3, max_concurrent_rollouts=9)
    worker = lab.worker()
    trainer.enqueue(tasks(12))
    slow, other = worker.claim(9)
    assert worker.claim_reason == "at_capacity"
    for _ in range(3):
        worker.submit(other, b"x")
        trainer.next_batch(timeout=1)
        trainer.advance()
        (other,) = worker.claim(9)
        worker.renew()
        assert not slow.cancelled
    assert worker.submit(slow, b"late").answer == "accepted"
    (rollout,) = trainer.next_batch(timeout=1)
    assert (rollout.task, rollout.staleness) == ("t0", 3)
    trainer.advance()
    (slow,) = worker.claim(9)
    for _ in range(4):
        worker.submit(other, b"x")
        trainer.next_batch(timeout=1)
        trainer.advance()
        (other,) = worker.claim(9)
    worker.renew()
    assert slow.cancel_reason == "stale"


def test_a_limit_that_nobody_gave_follows_the_staleness(lab: Lab):
    """Mutants: the_limit_that_nobody_gave_is_the_staleness, a_limit_below_the_staleness_counts."""
    lab.keeps_config = False
    trainer, worker = lab.trainer(consumer_batch_size=1, max_staleness=1, max_concurrent_rollouts=9), lab.worker()
    assert (trainer.config.staleness_limit, trainer.config.oldest_trained) == (None, 4)
    trainer.enqueue(tasks(1))
    (attempt,) = worker.claim()
    for _ in range(8):
        trainer.advance(allow_empty=True)
    assert trainer.configure(max_staleness=2) == {"max_staleness": 1}
    worker.renew()
    assert not attempt.cancelled
    trainer.advance(allow_empty=True)
    assert trainer.configure(staleness_limit=4, max_staleness=2) == {"staleness_limit": None}
    assert trainer.configure(max_staleness=9) == {"max_staleness": 2}
    assert trainer.config.oldest_trained == 9
    worker.renew()
    assert not attempt.cancelled
    trainer.configure(max_staleness=8)
    worker.renew()
    assert attempt.cancel_reason == "stale"


def test_a_run_of_an_earlier_release_keeps_its_bound(lab: Lab):
    """Such a run stores no `staleness_limit`. Mutants: a_run_without_a_limit_gets_one, what_a_stored_run_has_is_not_told."""
    lab.keeps_config = False
    trainer, worker, _, held = old_task(lab, staleness_limit=None)
    lab.command("HDEL", lab.key("state"), "staleness_limit")
    reopened = lab.trainer(consumer_batch_size=1, max_staleness=1, staleness_limit=1)
    assert (reopened.config.staleness_limit, reopened.config.oldest_trained) == (1, 1)
    assert lab.trainer(consumer_batch_size=1, max_staleness=1).config == reopened.config
    with pytest.raises(ConfigMismatch) as caught:
        lab.trainer(consumer_batch_size=1, max_staleness=1, staleness_limit=4)
    assert caught.value.fields == {"field": "staleness_limit", "stored": "1", "given": "4"}
    worker.renew()
    assert held.cancel_reason == "stale"
    trainer = lab.trainer(reopen=True)
    assert trainer.configure(staleness_limit=None) == {"staleness_limit": None}
    assert trainer.config.oldest_trained == 4


def test_too_often_too_old_ends_rejected_and_is_counted(lab: Lab):
    """A bias towards short rollouts must be visible."""
    trainer = lab.trainer(consumer_batch_size=1, max_staleness=0, max_stale_requeues=2, max_attempts=1)
    worker = lab.worker()
    trainer.enqueue(tasks(1))
    for turn in range(3):
        (attempt,) = worker.claim()
        assert attempt.tries == 0  # being too old costs no try
        trainer.advance(allow_empty=True)
        assert worker.submit(attempt, b"x").answer == "stale"
        assert lab.row("t0").state == ("pending" if turn < 2 else "rejected")
    assert lab.row("t0").reason == "stale"
    assert (trainer.stats().rejected, trainer.stats().totals["stale"]) == (1, 3)


def test_sealing_a_prefetched_batch_makes_what_runs_older(lab: Lab):
    """Too old is judged against the next step, not against the version."""
    trainer = lab.raw_trainer(consumer_batch_size=1, max_staleness=1, max_concurrent_rollouts=9)
    worker = lab.raw_worker()
    trainer.enqueue("a", "b", "c")
    a, b = worker.take_one(), worker.take_one()
    worker.submit(a)
    digest = trainer.take(0, 1).digest
    assert worker.claim().reason == "at_capacity"
    worker.submit(b)
    trainer.take(1, 1)
    assert lab.stat("version") == 0
    assert worker.claim().granted == ()
    trainer.advance(0, digest)
    (granted,) = worker.claim().granted
    assert granted.task == "c"
    assert worker.submit(granted.attempt_id).word == "accepted"


def test_a_task_is_started_only_where_it_could_still_be_used(lab: Lab):
    """S = 0 and the batch of this step sealed: what starts now is for a step that this policy cannot serve.

    Mutants: start_ignores_staleness.
    """
    trainer = lab.raw_trainer(consumer_batch_size=1, max_staleness=0, max_concurrent_rollouts=99)
    worker = lab.raw_worker()
    trainer.enqueue(*"abc")
    worker.work()
    digest = trainer.take(0, 1).digest
    lab.command("HINCRBY", lab.key("state"), "accepted", -5)  # capacity is there, on paper
    assert worker.claim().granted == ()
    lab.command("HINCRBY", lab.key("state"), "accepted", 5)
    trainer.advance(0, digest)
    assert len(worker.claim().granted) == 1


# -- explicit policies -------------------------------------------------------------------------------------------------


def test_the_default_policy_is_the_current_one(lab: Lab):
    trainer, worker = lab.trainer(consumer_batch_size=1, max_staleness=3, max_concurrent_rollouts=9), lab.worker()
    trainer.enqueue(tasks(3))
    for version in range(3):
        (attempt,) = worker.claim()
        assert (attempt.version, attempt.policy) == (version, Policy(version=version, epoch=trainer.epoch))
        trainer.advance(allow_empty=True)


def test_a_worker_says_which_weights_it_has_loaded(lab: Lab):
    trainer = lab.trainer(consumer_batch_size=1, max_staleness=2, staleness_limit=2, max_concurrent_rollouts=9)
    loaded = Policy(version=0, epoch=trainer.epoch)
    worker = lab.worker(policy=loaded)
    trainer.enqueue(tasks(5))
    for _ in range(2):
        trainer.advance(allow_empty=True)
    (attempt,) = worker.claim()
    assert attempt.policy == loaded
    worker.submit(attempt, b"x")
    (rollout,) = trainer.next_batch(timeout=1)
    assert (rollout.version, rollout.staleness) == (0, 2)
    trainer.advance()

    assert worker.claim() == []
    assert worker.claim_reason == "weights_stale"

    worker.policy = Policy(version=3, epoch=trainer.epoch)
    assert worker.claim()[0].version == 3


@pytest.mark.parametrize(
    ("version", "epoch"), [(0, "1.otherother"), (0, "2.otherother"), (5, ""), (2**53 - 1, ""), (1, "")]
)
def test_a_policy_that_does_not_survive_gets_no_work(lab: Lab, version: int, epoch: str):
    """Of another epoch, or of a version that nobody made. Mutants: any_policy_survives."""
    trainer = lab.trainer(consumer_batch_size=1, max_staleness=9)
    worker = lab.worker(policy=Policy(version=version, epoch=epoch or trainer.epoch))
    trainer.enqueue(tasks(1))
    lab.unmark()
    assert worker.claim() == []
    assert worker.claim_reason == "weights_stale"
    assert lab.marked(), "the marker that woke this worker is another one's"


def test_versions_of_an_earlier_trainer_are_still_good(lab: Lab):
    old = lab.trainer(consumer_batch_size=1, max_staleness=2, max_concurrent_rollouts=9)
    old.enqueue(tasks(3))
    old.advance(allow_empty=True)
    new = lab.trainer(reopen=True)
    new.advance(allow_empty=True)
    for policy in (Policy(version=1, epoch=old.epoch), Policy(version=2, epoch=new.epoch)):
        assert run_one(lab.worker(policy=policy))
    assert lab.worker(policy=Policy(version=2, epoch=old.epoch)).claim() == []


def test_weights_that_changed_during_generation_are_told_by_the_newest(lab: Lab):
    trainer, worker = lab.trainer(consumer_batch_size=1, max_staleness=3, max_concurrent_rollouts=9), lab.worker()
    trainer.enqueue(tasks(2))
    first, second = worker.claim(2)
    trainer.advance(allow_empty=True)
    trainer.advance(allow_empty=True)
    answer = worker.submit(first, b"x", policy=Policy(version=2, epoch=trainer.epoch))
    assert answer.answer == "accepted"
    (rollout,) = trainer.next_batch(timeout=1)
    assert (rollout.version, rollout.newest, rollout.samples[0].version, rollout.samples[0].newest) == (0, 2, 0, 2)

    for policy in (Policy(version=3, epoch=trainer.epoch), Policy(version=1, epoch="9.otherother")):
        assert worker.submit(second, b"x", policy=policy).answer in {"stale", "unknown"}
    assert lab.row("t1").state == "pending"
    assert lab.row("t1").slots[0].why == "stale"


def test_a_worker_with_stale_weights_asks_for_newer_ones(lab: Lab, monkeypatch: pytest.MonkeyPatch):
    trainer = lab.trainer(consumer_batch_size=1, max_staleness=0, max_concurrent_rollouts=9)
    asked: list[tuple[Policy, bytes | None]] = []

    def load(policy: Policy, blob: bytes | None) -> Policy:
        asked.append((policy, blob))
        return policy

    worker = lab.worker(policy=Policy(version=0, epoch=trainer.epoch), on_weights_stale=load)
    trainer.enqueue(tasks(1))
    trainer.advance(b"s3://weights/1", allow_empty=True)
    (attempt,) = worker.claim(timeout=5)
    assert asked == [(Policy(version=1, epoch=trainer.epoch), b"s3://weights/1")]
    assert attempt.version == 1


# -- the blob ----------------------------------------------------------------------------------------------------------


def test_the_blob_of_an_advance_travels_with_the_next_claims(lab: Lab):
    trainer = lab.trainer(consumer_batch_size=1, max_staleness=9, max_concurrent_rollouts=99)
    early, late = lab.worker(), lab.worker()
    trainer.enqueue(tasks(9))
    assert early.claim()[0].blob is None
    trainer.advance(b"weights of 1", allow_empty=True)
    assert early.claim()[0].blob == b"weights of 1"
    trainer.advance(allow_empty=True)  # without a blob: the newest stays
    assert early.claim()[0].blob == b"weights of 1"
    trainer.advance(b"\0", allow_empty=True)
    assert early.claim()[0].blob == b"\0"
    assert late.claim()[0].blob == b"\0"


def test_a_blob_is_sent_once_to_each_worker(lab: Lab):
    trainer, worker = lab.raw_trainer(consumer_batch_size=9), lab.raw_worker()
    trainer.send(calls.advance, 0, "-", allow_empty=True, blob=b"b" * 1_000)
    claimed = worker.claim(blob_seq=0)
    assert claimed.blob == b"b" * 1_000
    again = worker.claim(blob_seq=claimed.blob_seq)
    assert (again.blob, again.blob_seq) == (b"", claimed.blob_seq)


def test_submissions_of_reset_tasks_leave_no_bytes(lab: Lab):
    trainer, worker, done, held = old_task(lab)
    assert worker.submit(held, b"y" * 100_000).answer == "stale"
    assert worker.submit(held, b"y" * 100_000).answer == "stale"
    assert worker.submit(done, b"y" * 100_000).answer == "stale"
    assert lab.result_keys() == set()
    assert trainer.stats().pending == 1
    assert lab.call(worker_calls.release, [held.id])[0].word == "stale"


@pytest.mark.parametrize("met_by", ["take", "claim"])
def test_large_groups_that_are_too_old_are_reset_in_pieces(lab: Lab, met_by: str):
    """Mutants: take_resets_any_number_of_slots, claim_resets_any_number_of_slots."""
    trainer = lab.raw_trainer(consumer_batch_size=9, max_staleness=0, max_concurrent_rollouts=9)
    worker = lab.raw_worker()
    trainer.enqueue(*(f"t{i}" for i in range(5)), samples=400, min_samples=1)
    held = [one.attempt_id for one in worker.claim(1000).granted] + [
        one.attempt_id for one in worker.claim(1000, random="r2").granted
    ]
    assert len(held) == 2000
    for first in range(0, 2000, 200):
        if met_by == "take":
            lab.call(
                result_bytes.submit_call,
                [worker_calls.Submission(one, "accept", b"x") for one in held[first : first + 200]],
            )
        else:
            worker.release(*(one for one in held[first : first + 200] if "#0." not in one))
    trainer.advance(0)

    def meet() -> None:
        if met_by == "take":
            assert trainer.take(1, 9).more == (lab.stat("total_stale") < 5)
        else:
            worker.claim(1000, random="r3")

    meet()
    assert lab.stat("total_stale") == 3
    meet()
    assert lab.stat("total_stale") == 5
