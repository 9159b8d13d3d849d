"""Markers that a claim arms again, and those that it does not: waking a worker for nothing costs a round trip."""

from collections.abc import Callable
from typing import Any

import pytest

from broker.protocol import recovery
from broker.protocol import trainer as calls
from tests.conformance.lab import Lab, RawTrainer, RawWorker

#: Enough for all tasks here to run at once.
ROOM = {"consumer_batch_size": 9, "max_staleness": 1, "staleness_limit": 1, "max_concurrent_rollouts": 9}


def open_slots(lab: Lab, *ids: str, trainer: RawTrainer) -> RawWorker:
    """Groups of four of which one slot each is open, the others held. Returns who holds them."""
    worker = lab.raw_worker("holder")
    trainer.enqueue(*ids, samples=4)
    granted = worker.claim(4 * len(ids)).granted
    worker.release(*[one.attempt_id for one in granted if one.slot == 3])
    lab.unmark()
    return worker


def test_a_claim_of_the_last_open_slots_wakes_nobody(lab: Lab):
    """Mutants: used_up_forgotten."""
    trainer = lab.raw_trainer(**ROOM)
    open_slots(lab, "a", "b", trainer=trainer)
    assert [one.task for one in lab.raw_worker().claim(2).granted] == ["a", "b"]
    assert not lab.marked()


def test_a_claim_that_did_not_look_at_the_last_open_slot_wakes_another(lab: Lab):
    """Mutants: open_slots_not_counted."""
    trainer = lab.raw_trainer(**ROOM)
    open_slots(lab, "a", "b", "c", trainer=trainer)
    assert [one.task for one in lab.raw_worker().claim(2).granted] == ["a", "b"]
    assert lab.marked()


def test_a_claim_that_took_a_part_of_a_running_group_wakes_another(lab: Lab):
    """Mutants: still_open_forgotten."""
    trainer, worker = lab.raw_trainer(**ROOM), lab.raw_worker("holder")
    trainer.enqueue("a", samples=4)
    worker.release(*[one.attempt_id for one in worker.claim(4).granted][2:])
    lab.unmark()
    assert [one.slot for one in lab.raw_worker().claim(1).granted] == [2]
    assert lab.marked()


def test_a_claim_that_started_a_part_of_a_group_wakes_another(lab: Lab):
    """Mutants: still_open_of_a_started_group_forgotten."""
    trainer, worker = lab.raw_trainer(**ROOM), lab.raw_worker()
    trainer.enqueue("a", samples=4)
    lab.unmark()
    assert [one.slot for one in worker.claim(3).granted] == [0, 1, 2]
    assert lab.marked()
    lab.unmark()
    assert [one.slot for one in worker.claim(1, random="r2").granted] == [3]
    assert not lab.marked()


def test_a_claim_that_reset_a_task_on_the_way_still_counts_what_is_left(lab: Lab):
    """Mutants: used_up_after_a_reset."""
    trainer = lab.raw_trainer(**ROOM, on_stale="drop")
    holder = open_slots(lab, "old", trainer=trainer)
    held = holder.claim(1, random="r2").granted  # or the claims of the others would meet the old one
    trainer.advance(0)
    trainer.advance(1)
    open_slots(lab, "good", "left", trainer=trainer)
    holder.release(held[0].attempt_id)
    lab.unmark()

    assert [one.task for one in lab.raw_worker().claim(1).granted] == ["good"]

    assert lab.row("old").state == "rejected"
    assert lab.marked(), "a slot of `left` is open"


def test_a_claim_that_stops_at_its_limit_of_resets_wakes_another(lab: Lab):
    trainer = lab.raw_trainer(**ROOM, on_stale="drop")
    holder = open_slots(lab, "old", "older", trainer=trainer)
    held = holder.claim(2, random="r2").granted
    trainer.advance(0)
    trainer.advance(1)
    open_slots(lab, "good", trainer=trainer)
    holder.release(*[one.attempt_id for one in held])
    lab.unmark()
    assert lab.raw_worker().claim(1, limit=1).granted == ()
    assert lab.marked(), "a slot of `good` is open"


@pytest.mark.parametrize("left", [True, False])
def test_a_claim_counts_the_tasks_that_it_did_not_look_at(lab: Lab, left: bool):
    """A page of tasks is read as if they were groups of four. Mutants: pending_not_counted."""
    trainer, worker = lab.raw_trainer(**ROOM), lab.raw_worker()
    trainer.enqueue("a", "b")
    trainer.enqueue("c", samples=4)
    if not left:
        trainer.send(calls.cancel, ["c"])
    lab.unmark()
    assert [one.task for one in worker.claim(2).granted] == ["a", "b"]
    assert lab.marked() == left


def by_advance(trainer: RawTrainer, worker: RawWorker) -> Callable[[], Any]:
    return lambda: trainer.advance(0)


def by_submit(trainer: RawTrainer, worker: RawWorker) -> Callable[[], Any]:
    trainer.enqueue("t")
    attempt = worker.take_one()
    return lambda: worker.submit(attempt)


def by_cancel(trainer: RawTrainer, worker: RawWorker) -> Callable[[], Any]:
    trainer.enqueue("t")
    worker.take_one()
    return lambda: trainer.send(calls.cancel, ["t"])


def by_discard(trainer: RawTrainer, worker: RawWorker) -> Callable[[], Any]:
    trainer.enqueue("t")
    worker.work(1)
    return lambda: trainer.send(calls.discard, "x", ["t"])


def by_the_last_claim(trainer: RawTrainer, worker: RawWorker) -> Callable[[], Any]:
    trainer.enqueue("t")
    return lambda: worker.claim(1)


QUIET = [by_advance, by_submit, by_cancel, by_discard, by_the_last_claim]


@pytest.mark.parametrize("act", QUIET, ids=lambda act: act.__name__[3:])
def test_nobody_is_woken_where_no_task_waits(lab: Lab, act: Callable[[RawTrainer, RawWorker], Callable[[], Any]]):
    """There is capacity, but no task to start. Mutants: woken_where_nothing_waits."""
    trainer = lab.raw_trainer(**ROOM)
    ready = act(trainer, lab.raw_worker())
    lab.unmark()
    ready()
    assert lab.stat("capacity") > 0
    assert not lab.marked()


def by_resume(lab: Lab, trainer: RawTrainer) -> Callable[[], Any]:
    trainer.send(calls.pause, "paused")
    return lambda: trainer.send(calls.pause, "")


def by_repair(lab: Lab, trainer: RawTrainer) -> Callable[[], Any]:
    lab.command("HINCRBY", lab.key("state"), "accepted", 7)
    return lambda: trainer.send(calls.repair)


def by_the_end_of_a_recovery(lab: Lab, trainer: RawTrainer) -> Callable[[], Any]:
    lab.call(recovery.begin, "recoverer", recovery.Begin(0), None)
    return lambda: lab.call(recovery.end, calls.trainer_call_id("recoverer", 1))


@pytest.mark.parametrize("act", [by_resume, by_repair, by_the_end_of_a_recovery], ids=lambda act: act.__name__[3:])
def test_rare_calls_wake_those_who_listen_in_any_case(lab: Lab, act: Callable[[Lab, RawTrainer], Callable[[], Any]]):
    """Owners of an admission run have no tasks in the server. Mutants: no_wake_of_those_who_listen_without_tasks."""
    ready = act(lab, lab.raw_trainer(**ROOM))
    lab.unmark()
    ready()
    assert lab.marked()


# -- trainers ----------------------------------------------------------------------------------------------------------


def test_a_trainer_of_a_short_batch_waits_for_what_is_left(lab: Lab):
    """Mutants: short_take_waits_for_a_full_batch."""
    trainer, worker = lab.raw_trainer(**ROOM), lab.raw_worker()
    trainer.enqueue("a", "b", "c")
    worker.work(1)
    assert trainer.take(0, 9, short=True).size == 1
    lab.unmark("wake:ready")
    worker.work(1)
    assert not lab.marked("wake:ready"), "one is still to come"
    worker.work(1)
    assert lab.marked("wake:ready")


def test_a_trainer_that_has_its_batch_is_not_woken(lab: Lab):
    """Mutants: want_after_a_short_batch."""
    trainer, worker = lab.raw_trainer(**ROOM), lab.raw_worker()
    trainer.enqueue("a")
    worker.work(1)
    assert trainer.take(0, 2, short=True).sealed
    trainer.enqueue("b", "c")
    worker.work(1)
    trainer.send(calls.cancel, ["c"])
    assert not lab.marked("wake:ready")
