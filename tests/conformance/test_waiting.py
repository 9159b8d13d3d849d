"""`on_stale="wait"`: batches keep places for what no later batch could hold, and trainers wait for it."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from broker import Policy, Task, Trainer, Worker, aio
from broker.errors import Early, WaitTimeout
from broker.inspection.reasons import batch_progress
from broker.inspection.transitions import sentence
from broker.trainer import batches
from broker.trainer.filter import Accept
from tests.conformance.lab import Lab, tasks

#: A batch of two, one step ahead, and nothing older than one step.
CLOSE = {"consumer_batch_size": 2, "max_staleness": 1, "staleness_limit": 1, "max_concurrent_rollouts": 9}


def has_no_batch(trainer: Any) -> None:
    """The trainer asks for a batch, and there is none yet."""
    with pytest.raises(WaitTimeout):
        trainer.next_batch(timeout=0)


def waiting_trainer(lab: Lab, **fields: Any) -> Trainer:
    """A trainer whose batches wait."""
    return lab.trainer(**{**CLOSE, "on_stale": "wait", **fields})


def step(trainer: Trainer, n: int | None = None) -> list[str]:
    """Trains a batch; returns its tasks."""
    batch = trainer.next_batch(n, timeout=0)
    trainer.advance()
    return [rollout.task for rollout in batch]


def loaded(trainer: Trainer, worker: Worker, version: int) -> Worker:
    """The worker says that it has the weights of an earlier version."""
    worker.policy = Policy(version=version, epoch=trainer.policy.epoch)
    return worker


def one_behind(lab: Lab, **fields: Any):
    """A slow task of version 0 at version 1; t1 and t2 were trained, t3 waits in `ready`, and the workers have t4."""
    trainer, worker = waiting_trainer(lab, **fields), lab.worker()
    trainer.enqueue(tasks(9))
    slow, *others = worker.claim(9)
    assert [each.task for each in others] == ["t1", "t2", "t3"]
    for attempt in others:
        worker.submit(attempt, b"x")
    assert step(trainer) == ["t1", "t2"]
    (t4, t5) = worker.claim(9)
    assert worker.claim_reason == "at_capacity"
    worker.submit(t4, b"x")
    return trainer, worker, slow, t5


def test_a_batch_keeps_a_place_for_what_no_later_batch_could_hold(lab: Lab):
    """Mutants: no_places_are_kept, what_is_taken_still_counts, what_ends_still_counts, starts_do_not_count."""
    trainer, worker, slow, _ = one_behind(lab)
    has_no_batch(trainer)
    assert lab.states()["t4"] == "ready"  # of version 1: it may wait for the next batch
    assert trainer.stats().due == ["t0"]
    worker.renew()
    assert not slow.cancelled
    assert worker.submit(slow, b"x").answer == "accepted"
    assert [(each.task, each.staleness) for each in trainer.next_batch(timeout=0)] == [("t0", 1), ("t3", 1)]
    assert trainer.stats().due == []
    assert trainer.stats().totals.get("requeued", 0) == 0


def test_it_is_told_for_whom_a_batch_waits(lab: Lab):
    """Mutants: the_wait_is_not_told."""
    trainer, _, _, _ = one_behind(lab)
    for _ in range(2):
        has_no_batch(trainer)
        lab.pass_ms(60_000)
    assert [words for kind, words in lab.transitions() if kind == "wait"] == [["1", "0", "t0"]]
    assert sentence("wait", ["1", "0", "t0"]) == "the batch of step 1 waits for tasks of version 0 or older: t0"
    assert batch_progress(trainer.stats()) == (
        "The batch of step 1 has 1 of 2. For 2 min it has waited for what no later batch could hold: t0. "
        "After 10 min (max_wait_ms) these start over."
    )


@pytest.mark.parametrize("again", [10, 0])
def test_what_a_batch_has_waited_for_too_long_starts_over_and_is_counted(lab: Lab, again: int):
    """Mutants: a_wait_has_no_end, a_wait_ends_at_once, the_wait_begins_anew_with_each_take,
    nobody_is_woken_for_a_free_place.
    """
    trainer, worker, slow, _ = one_behind(lab, max_wait_ms=5_000, max_stale_requeues=again)
    for _ in range(3):
        has_no_batch(trainer)
        worker.renew()
        assert not slow.cancelled
        lab.pass_ms(1_700)
    has_no_batch(trainer)
    worker.renew()
    assert slow.cancel_reason == "stale"
    assert lab.row("t0").state == ("pending" if again else "rejected")
    assert (trainer.stats().totals["overdue"], trainer.stats().totals["stale"]) == (1, 1)
    assert lab.marked("wake:ready")
    assert step(trainer) == ["t3", "t4"]


def test_only_what_ran_when_the_wait_began_starts_over(lab: Lab):
    """A worker that lags starts a task as old as the slow one. Mutants: the_wait_is_for_all_that_is_due."""
    trainer, worker, slow, t5 = one_behind(lab, max_wait_ms=5_000)
    has_no_batch(trainer)
    lab.pass_ms(4_000)
    worker.release(slow)  # its place is free for another one, that starts now
    (young,) = loaded(trainer, lab.worker(name="v"), 0).claim(1)
    assert young.task == "t0"
    lab.pass_ms(2_000)
    has_no_batch(trainer)
    assert lab.row("t0").state == "running"
    worker.submit(t5, b"x")
    lab.pass_ms(5_001)
    has_no_batch(trainer)
    assert step(trainer) == ["t3", "t4"]


def test_while_the_run_is_paused_no_wait_ends(lab: Lab):
    """Open slots are not handed out then. Mutants: a_pause_uses_up_the_wait."""
    trainer, worker, slow, _ = one_behind(lab, max_wait_ms=5_000)
    has_no_batch(trainer)
    trainer.pause()
    lab.pass_ms(9_000)
    has_no_batch(trainer)
    trainer.resume()
    has_no_batch(trainer)
    worker.renew()
    assert not slow.cancelled


def test_nobody_waits_for_a_batch_that_is_formed_ahead(lab: Lab):
    """Its trainer trains another one meanwhile. Mutants: a_batch_that_is_formed_ahead_is_waited_for."""
    fields = {"on_stale": "wait", "max_wait_ms": 5_000}
    lab.trainer(**CLOSE, **fields).enqueue(tasks(9))
    trainer, worker = lab.raw_trainer(**CLOSE, **fields), lab.worker()
    attempts = worker.claim(9)
    for attempt in attempts[:2]:
        worker.submit(attempt, b"x")
    sealed = trainer.take(0, 2)
    for _ in range(2):
        assert trainer.take(1, 2).due == ()
        lab.pass_ms(9_000)
    worker.renew()
    assert not any(attempt.cancelled for attempt in attempts)
    trainer.advance(0, sealed.digest)
    assert trainer.take(1, 2).due == ("t2", "t3")


def test_nobody_has_waited_while_there_is_no_trainer(lab: Lab):
    """Mutants: an_absent_trainer_waits."""
    trainer, worker, slow, _ = one_behind(lab, max_wait_ms=5_000)
    has_no_batch(trainer)
    lab.pass_ms(9_000)
    again = lab.trainer(reopen=True)
    with pytest.raises(WaitTimeout):
        again.next_batch(timeout=0)
    worker.renew()
    assert not slow.cancelled


def test_the_trainer_for_asyncio_waits_too(lab: Lab):
    _, worker, slow, _ = one_behind(lab)

    async def waits() -> list[str]:
        async with aio.Trainer(lab.url, lab.run, clock=lab.clock) as trainer:
            with pytest.raises(WaitTimeout):
                await trainer.next_batch(timeout=0)
            assert (await trainer.stats()).due == ["t0"]
            worker.submit(slow, b"x")
            return [rollout.task for rollout in await trainer.next_batch(timeout=0)]

    assert asyncio.run(waits()) == ["t0", "t3"]


def test_a_filter_may_discard_while_a_batch_waits(lab: Lab):
    trainer, worker, slow, t5 = one_behind(lab)
    with pytest.raises(WaitTimeout):
        trainer.next_batch(timeout=0, accept=lambda rollout: rollout.task != "t3")
    assert trainer.stats().due == ["t0"]
    for attempt in (slow, t5):
        worker.submit(attempt, b"x")
    batch = trainer.next_batch(timeout=0, accept=lambda rollout: rollout.task != "t3")
    assert [rollout.task for rollout in batch] == ["t0", "t4"]


def test_a_small_batch_is_not_sealed_without_what_is_due(lab: Lab):
    """The trainer takes less than B. Then it may get more than it asks for, up to B. Mutants: a_small_batch_waits_for_nobody."""
    trainer, worker = waiting_trainer(lab), lab.worker()
    trainer.enqueue(tasks(9))
    slow, *others = worker.claim(9)
    for attempt in others:
        worker.submit(attempt, b"x")
    assert step(trainer, 1) == ["t1", "t2"]  # else three of version 0 would be left for a batch of two
    with pytest.raises(WaitTimeout):
        trainer.next_batch(1, timeout=0)
    assert trainer.stats().due == ["t0"]
    assert lab.stat("want") == 1
    worker.submit(slow, b"x")
    assert lab.marked("wake:ready")
    assert step(trainer, 1) == ["t0", "t3"]


@pytest.mark.parametrize("accept", [None, lambda rollout: True], ids=["all", "filter"])
@pytest.mark.parametrize("is_async", [False, True], ids=["sync", "asyncio"])
def test_a_small_batch_that_needs_many_calls_is_filled_at_once(
    lab: Lab, monkeypatch: pytest.MonkeyPatch, accept: Accept | None, is_async: bool
):
    """What is ready is more than one call looks at, and all of it is due."""
    monkeypatch.setattr(batches, "TAKE_LIMIT", 2)
    trainer = waiting_trainer(lab, consumer_batch_size=5, max_staleness=0, staleness_limit=0)
    worker = lab.worker()
    trainer.enqueue(tasks(5))
    for attempt in worker.claim(5):
        worker.submit(attempt, b"x")

    async def next_batch() -> list[str]:
        async with aio.Trainer(lab.url, lab.run, clock=lab.clock) as other:
            return [rollout.task for rollout in await other.next_batch(1, accept=accept, timeout=0)]

    batch = (
        asyncio.run(next_batch())
        if is_async
        else [rollout.task for rollout in trainer.next_batch(1, accept=accept, timeout=0)]
    )
    assert batch == [f"t{i}" for i in range(5)]


def test_a_step_without_a_batch_is_refused_where_something_would_become_too_old(lab: Lab):
    """Mutants: an_empty_step_leaves_what_is_due."""
    trainer, worker = waiting_trainer(lab), lab.worker()
    trainer.enqueue(tasks(9))
    attempts = worker.claim(3)
    with pytest.raises(Early, match="tasks with samples of version 0 or older would become too old"):
        trainer.advance(allow_empty=True)
    worker.release(attempts[0])
    trainer.advance(allow_empty=True)
    assert trainer.version == 1


@pytest.mark.parametrize("discards", [False, True])
def test_a_handler_that_hangs_does_not_stop_a_trainer_that_passes_over_empty_steps(lab: Lab, discards: bool):
    """Nothing fills the batch, and one task keeps the step from being passed over. Mutants: an_empty_batch_waits_for_nobody."""
    trainer, worker = waiting_trainer(lab, max_wait_ms=5_000), lab.worker()
    trainer.enqueue(tasks(9))
    hung, *others = worker.claim(2 if discards else 1)
    for attempt in others:
        worker.submit(attempt, b"x")
    trainer.advance(allow_empty=True)
    trainer.discard([attempt.task for attempt in others])
    for _ in range(2):
        has_no_batch(trainer)
        assert trainer.stats().due == ["t0"]
        with pytest.raises(Early):
            trainer.advance(allow_empty=True)
        worker.renew()
        assert not hung.cancelled
        lab.pass_ms(2_600)
    has_no_batch(trainer)
    worker.renew()
    assert hung.cancel_reason == "stale"
    assert trainer.advance(allow_empty=True) == 2
    assert trainer.stats().totals["overdue"] == 1


def test_open_slots_are_closed_to_older_weights(lab: Lab):
    """Mutants: open_slots_take_any_weights, nobody_is_told_that_newer_weights_get_more."""
    trainer, worker, late = waiting_trainer(lab, consumer_batch_size=1), lab.worker(), lab.worker(name="late")
    trainer.enqueue([Task(id="a"), Task(id="group", samples=2), Task(id="c")])
    (first,) = worker.claim(1)
    worker.submit(first, b"x")
    step(trainer)
    (held,) = worker.claim(1)
    assert held.task == "group"
    trainer.drain()
    assert loaded(trainer, late, 0).claim(1) == []
    assert late.claim_reason == "weights_stale"
    assert lab.marked("wake")
    assert [each.task for each in loaded(trainer, late, 1).claim(1)] == ["group"]


def test_weights_that_lag_start_only_what_the_next_batches_can_hold(lab: Lab):
    """Mutants: old_weights_start_as_many, nobody_is_told_that_newer_weights_get_more."""
    trainer, worker, late = waiting_trainer(lab, consumer_batch_size=1), lab.worker(), lab.worker(name="late")
    trainer.enqueue(tasks(9))
    (first,) = worker.claim(1)
    worker.submit(first, b"x")
    step(trainer)
    assert [each.task for each in loaded(trainer, late, 0).claim(9)] == ["t1"]  # the batch of step 1 has one place
    assert late.claim_reason == "weights_stale"
    assert [each.task for each in worker.claim(9)] == ["t2"]


def test_the_oldest_are_taken_first_whoever_started_first(lab: Lab):
    """Mutants: ready_is_in_the_order_of_starts."""
    trainer, worker, late = (
        waiting_trainer(lab, max_staleness=2, staleness_limit=4),
        lab.worker(),
        lab.worker(name="late"),
    )
    trainer.enqueue(tasks(9))
    for attempt in worker.claim(2):
        worker.submit(attempt, b"x")
    step(trainer)
    new = worker.claim(2)
    old = loaded(trainer, late, 0).claim(2)
    for holder, attempts in ((worker, new), (late, old)):
        for attempt in attempts:
            holder.submit(attempt, b"x")
    assert step(trainer) == ["t4", "t5"]
    assert step(trainer) == ["t2", "t3"]


def test_a_change_to_the_mode_counts_and_orders_what_is_there(lab: Lab):
    """Mutants: a_change_of_mode_counts_nothing."""
    lab.keeps_config = False
    trainer = waiting_trainer(lab, on_stale="requeue", max_staleness=2, staleness_limit=2)
    worker, late = lab.worker(), lab.worker(name="late")
    trainer.enqueue(tasks(9))
    for attempt in worker.claim(2):
        worker.submit(attempt, b"x")
    step(trainer)
    new = worker.claim(2)
    old = loaded(trainer, late, 0).claim(2)
    worker.submit(new[0], b"x")
    late.submit(old[0], b"x")
    assert trainer.configure(on_stale="wait") == {"on_stale": "requeue"}
    assert lab.command("HGET", lab.key("state"), "ages") == b"0:2 1:2"
    assert lab.command("ZRANGE", lab.key("ready"), 0, -1) == [b"t4", b"t2"]
    assert trainer.configure(on_stale="requeue") == {"on_stale": "wait"}
    assert lab.command("HGET", lab.key("state"), "ages") == b""
    assert lab.command("ZRANGE", lab.key("ready"), 0, -1) == [b"t2", b"t4"]


def test_wrong_counts_are_found_and_repaired(lab: Lab):
    """An earlier release that shares the run does not count. Mutants: a_repair_keeps_the_ages, a_wait_for_nobody_goes_on."""
    trainer, worker, slow, t5 = one_behind(lab)
    lab.command("HSET", lab.key("state"), "ages", "0:7 1:2")
    assert trainer.audit().drift == {"ages": (9, 4)}
    assert trainer.audit(repair=True).drift == {"ages": (9, 4)}
    assert trainer.audit().ok
    for attempt in (slow, t5):
        worker.submit(attempt, b"x")
    assert step(trainer) == ["t0", "t3"]
    for attempt in worker.claim(2):
        worker.submit(attempt, b"x")
    trainer.cancel(["t4", "t5"])
    lab.command("HSET", lab.key("state"), "ages", "1:5 2:2")
    with pytest.raises(WaitTimeout):  # it would wait for nobody, so it counts
        trainer.next_batch(timeout=0)
    assert step(trainer) == ["t6", "t7"]


@pytest.mark.parametrize("first", ["gd", "dg"])
def test_what_a_recovery_undoes_takes_no_place_of_what_comes_back(lab: Lab, first: str):
    """In whichever order the recovery meets the tasks. Mutants: what_is_undone_takes_places."""
    trainer, worker = waiting_trainer(lab, consumer_batch_size=1), lab.worker()
    names = [letter + number for letter in first for number in "12"]
    trainer.enqueue([Task(id=name, priority=5 if name[0] == "g" else 0) for name in names])
    for attempt in worker.claim(9):
        worker.submit(attempt, b"x")
    assert step(trainer, 2) == ["g1", "g2"]
    assert [attempt.task for attempt in worker.claim(9)] == ["d1", "d2"]
    report = trainer.recover(version=0)
    assert (report.ready_again, report.requeued) == (2, {"lost_policy": 2})


def test_rollouts_of_lost_batches_come_back_where_they_have_a_place(lab: Lab):
    """After batches larger than B, more come back than the steps that are left can hold. Mutants: all_rollouts_of_lost_batches_come_back,
    what_comes_back_is_not_counted.
    """
    fields = {"consumer_batch_size": 1, "max_staleness": 2, "staleness_limit": 2}
    trainer, worker = waiting_trainer(lab, **fields), lab.worker()
    trainer.enqueue(tasks(9))
    for attempt in worker.claim(3):
        worker.submit(attempt, b"x")
    assert step(trainer, 3) == ["t0", "t1", "t2"]
    late = loaded(trainer, lab.worker(name="late"), 0)
    old = late.claim(9)
    assert [each.task for each in old] == ["t3", "t4"]
    report = trainer.recover(version=0)
    assert (report.ready_again, report.requeued) == (1, {"no_place": 2})
    for attempt in old:
        late.submit(attempt, b"x")
    trained = [name for _ in range(3) for name in step(trainer)]
    assert {"t3", "t4"} < set(trained)
