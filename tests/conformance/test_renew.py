"""The heartbeat reads the session's set and the records of few tasks. It must not miss an attempt that is over."""

from typing import Any

import pytest

from broker.protocol import trainer as calls
from broker.protocol import worker as worker_calls
from tests.conformance.lab import Lab, RawTrainer


def patient(lab: Lab, **config: Any) -> RawTrainer:
    """A trainer with room for everything."""
    fields = {
        "consumer_batch_size": 9,
        "max_staleness": 1,
        "staleness_limit": 1,
        "max_concurrent_rollouts": 9,
        **config,
    }
    return lab.raw_trainer(**fields)


def test_the_oldest_sample_of_a_group_decides(lab: Lab):
    """Also for a worker whose own attempt is young. Mutants: renew_looks_at_the_newest."""
    trainer, early, late = patient(lab), lab.raw_worker(), lab.raw_worker()
    trainer.enqueue("t", samples=2)
    old = early.take_one()
    trainer.advance(0)
    young = late.take_one()
    assert late.renew(young).abandon == {}
    trainer.advance(1)

    assert late.renew(young).abandon == {young: "stale"}
    assert early.renew(old).abandon == {old: "stale"}
    assert (lab.row("t").state, lab.row("t").stale_requeues) == ("pending", 1)


def test_two_attempts_of_a_task_that_is_too_old_reset_it_once(lab: Lab):
    trainer, worker = patient(lab), lab.raw_worker()
    trainer.enqueue("t", samples=3)
    held = [one.attempt_id for one in worker.claim(3).granted]
    trainer.advance(0)
    trainer.advance(1)
    assert worker.renew(*held).abandon == dict.fromkeys(held, "stale")
    assert lab.row("t").stale_requeues == 1


def test_what_another_session_holds_is_not_touched(lab: Lab):
    """A worker whose session ended goes on with attempts of the new one only. Mutants: renew_resets_what_others_hold."""
    trainer, holder, other = patient(lab), lab.raw_worker(), lab.raw_worker()
    trainer.enqueue("t")
    held = holder.take_one()
    trainer.advance(0)
    trainer.advance(1)
    assert other.renew(held).abandon == {}
    assert lab.row("t").state == "running"
    assert holder.renew(held).abandon == {held: "stale"}


@pytest.mark.parametrize("beside", ["done", "released", "another's"])
def test_unknown_attempts_are_given_back_beside_attempts_that_ended(lab: Lab, beside: str):
    """As many are named as the session holds, and still one of those is not among them.

    Mutants: unknown_attempts_kept_beside_ended_ones.
    """
    trainer, worker, other = patient(lab), lab.raw_worker(), lab.raw_worker()
    trainer.enqueue("lost", "known", "ended")
    lost, known, ended = worker.take_one(), worker.take_one(), ""
    if beside == "another's":
        ended = other.take_one()
    else:
        ended = worker.take_one()
        worker.submit(ended) if beside == "done" else worker.release(ended)

    assert set(worker.renew(known, ended).abandon) == ({ended} if beside == "released" else set())

    assert lab.row("lost").state == "pending"
    assert lab.row("known").state == "running"
    assert worker.submit(lost).why == "released"


def test_more_attempts_than_one_command_takes(lab: Lab):
    """Each piece of the answer belongs to its own attempts. Mutants: renew_mixes_its_pieces."""
    trainer = patient(lab, consumer_batch_size=2_000, max_concurrent_rollouts=2_000)
    worker = lab.raw_worker()
    trainer.enqueue(*[f"t{i:04}" for i in range(1_000)])
    trainer.enqueue("u", "v")
    held = [one.attempt_id for one in (*worker.claim(1_000).granted, *worker.claim(2, random="r2").granted)]
    assert worker.renew(*held).abandon == {}
    trainer.send(calls.cancel, ["t0000", "v"])
    assert worker.renew(*held).abandon == {held[0]: "cancelled", held[-1]: "cancelled"}
    assert lab.stat("running") == 1_000
    for at in range(0, len(held), 1_000):
        lab.call(worker_calls.release, held[at : at + 1_000])


def test_an_unknown_attempt_behind_a_thousand_known_ones_is_given_back(lab: Lab):
    trainer = patient(lab, consumer_batch_size=2_000, max_concurrent_rollouts=2_000)
    worker = lab.raw_worker()
    trainer.enqueue(*[f"t{i:04}" for i in range(1_000)])
    trainer.enqueue("u")
    held = [one.attempt_id for one in worker.claim(1_000).granted]
    lost = worker.take_one()
    assert worker.renew(*held).abandon == {}
    assert worker.submit(lost).why == "released"
