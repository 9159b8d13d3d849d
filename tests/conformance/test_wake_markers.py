"""Waiting without polling: every path that makes a claim possible arms the marker that blocked workers wait on.

Each path is tested twice: by the marker itself, and by a blocked worker, which must have claimed exactly twice: once in vain,
once when woken. Its own time-outs are out of reach, so that a path that forgets to arm the marker makes the test fail.
"""

import asyncio
import threading
from collections.abc import Callable
from typing import Any

import pytest

from broker import Attempt, Policy, Task, aio
from broker.connections import open_transport
from broker.connections.base import BaseTransport
from broker.protocol import anyone, keys, recovery
from broker.protocol import trainer as calls
from tests.conformance.lab import Lab, RawTrainer, names_of, run_one, tasks
from tests.threads import InThread
from tests.waiting import wait_until

#: Longer than any test waits.
FAR_AWAY_S = 60.0


class Scene:
    """A run in which no claim is possible, and what will make one possible."""

    def __init__(self, lab: Lab, **config: Any) -> None:
        self.lab = lab
        config = {"consumer_batch_size": 1, "max_staleness": 0, "lease_ms": 3_600_000, **config}
        self.trainer: RawTrainer = lab.raw_trainer(**config)
        self.worker = lab.raw_worker("busy")

    def hold(self, *ids: str) -> list[str]:
        """Enqueues tasks and claims them."""
        self.trainer.enqueue(*ids)
        return [self.worker.take_one() for _ in ids]


def by_enqueue(lab: Lab) -> Callable[[], Any]:
    scene = Scene(lab)
    return lambda: scene.trainer.enqueue("t")


def by_release(lab: Lab) -> Callable[[], Any]:
    scene = Scene(lab)
    (attempt,) = scene.hold("t")
    return lambda: scene.worker.release(attempt)


def by_release_of_one_slot(lab: Lab) -> Callable[[], Any]:
    scene = Scene(lab)
    scene.trainer.enqueue("t", samples=2)
    attempts = [one.attempt_id for one in scene.worker.claim(2).granted]
    return lambda: scene.worker.release(attempts[0])


def by_leave(lab: Lab) -> Callable[[], Any]:
    scene = Scene(lab)
    scene.hold("t")
    return scene.worker.leave


def by_fail_without_backoff(lab: Lab) -> Callable[[], Any]:
    scene = Scene(lab, retry_backoff_ms=0)
    (attempt,) = scene.hold("t")
    return lambda: scene.worker.fail(attempt)


def by_fail_of_one_slot_without_backoff(lab: Lab) -> Callable[[], Any]:
    scene = Scene(lab, retry_backoff_ms=0)
    scene.trainer.enqueue("t", samples=2)
    attempts = [one.attempt_id for one in scene.worker.claim(2).granted]
    return lambda: scene.worker.fail(attempts[0])


def by_a_task_that_waits_for_its_backoff(lab: Lab) -> Callable[[], Any]:
    """It no longer runs, so that another may start."""
    scene = Scene(lab, retry_backoff_ms=3_600_000, retry_backoff_max_ms=3_600_000)
    (attempt,) = scene.hold("t")
    scene.trainer.enqueue("other")
    return lambda: scene.worker.fail(attempt)


def by_death(lab: Lab) -> Callable[[], Any]:
    scene = Scene(lab)
    (attempt,) = scene.hold("t")
    scene.trainer.enqueue("other")
    return lambda: scene.worker.fail(attempt, may_retry=False)


def by_a_verdict(lab: Lab) -> Callable[[], Any]:
    scene = Scene(lab)
    (attempt,) = scene.hold("t")
    scene.trainer.enqueue("other")
    return lambda: scene.worker.submit(attempt, verdict="reject")


def by_submit_that_ends_a_task(lab: Lab) -> Callable[[], Any]:
    scene = Scene(lab, max_staleness=5, max_concurrent_rollouts=1)
    (attempt,) = scene.hold("t")
    scene.trainer.enqueue("other")
    return lambda: scene.worker.submit(attempt)


def by_requeue_of_an_expired_lease(lab: Lab) -> Callable[[], Any]:
    scene = Scene(lab)
    short = lab.raw_worker("short", lease_ms=1_000)
    scene.trainer.enqueue("t")
    short.take_one()
    lab.pass_ms(1_000)
    return lambda: lab.call(anyone.requeue)


def by_requeue_of_a_due_retry(lab: Lab) -> Callable[[], Any]:
    scene = Scene(lab, retry_backoff_ms=500)
    (attempt,) = scene.hold("t")
    scene.worker.fail(attempt)
    lab.pass_ms(500)
    return lambda: lab.call(anyone.requeue)


def by_requeue_of_a_due_slot(lab: Lab) -> Callable[[], Any]:
    scene = Scene(lab, retry_backoff_ms=500)
    scene.trainer.enqueue("t", samples=2)
    attempts = [one.attempt_id for one in scene.worker.claim(2).granted]
    scene.worker.fail(attempts[0])
    lab.pass_ms(500)
    return lambda: lab.call(anyone.requeue)


def by_requeue_of_a_timed_out_attempt(lab: Lab) -> Callable[[], Any]:
    scene = Scene(lab, attempt_timeout_ms=500)
    scene.hold("t")
    lab.pass_ms(500)
    return lambda: lab.call(anyone.requeue)


def by_renew_that_gives_back_what_is_not_known(lab: Lab) -> Callable[[], Any]:
    scene = Scene(lab)
    scene.hold("t")
    return scene.worker.renew


def by_renew_that_meets_a_stale_task(lab: Lab) -> Callable[[], Any]:
    scene = Scene(lab)
    (attempt,) = scene.hold("t")
    scene.trainer.advance(0)
    scene.trainer.enqueue("other")
    scene.worker.claim(1, random="zz")  # takes the new capacity
    return lambda: scene.worker.renew(attempt, *lab.attempts_of("other"))


def by_submit_of_a_stale_task(lab: Lab) -> Callable[[], Any]:
    scene = Scene(lab)
    (attempt,) = scene.hold("t")
    scene.trainer.advance(0)
    return lambda: scene.worker.submit(attempt)


def by_eviction_of_a_stale_rollout(lab: Lab) -> Callable[[], Any]:
    """Take meets a finished rollout that is too old: it is done again, and is not accepted any more."""
    scene = Scene(lab, on_stale="requeue", max_staleness=0, max_concurrent_rollouts=1)
    scene.hold("t")
    scene.worker.submit(*lab.attempts_of("t"))
    scene.trainer.advance(0)
    return lambda: scene.trainer.take(1, 1)


def by_cancel(lab: Lab) -> Callable[[], Any]:
    scene = Scene(lab)
    scene.hold("t")
    scene.trainer.enqueue("other")
    return lambda: scene.trainer.send(calls.cancel, ["t"])


def by_cancel_of_an_operator(lab: Lab) -> Callable[[], Any]:
    scene = Scene(lab)
    scene.hold("t")
    scene.trainer.enqueue("other")
    return lambda: lab.call(calls.cancel, calls.operator_call_id("r1"), ["t"])


def by_discard(lab: Lab) -> Callable[[], Any]:
    scene = Scene(lab)
    scene.worker.submit(*scene.hold("t"))
    scene.trainer.enqueue("other")
    return lambda: scene.trainer.send(calls.discard, "x", ["t"])


def by_discard_from_the_unsealed_batch(lab: Lab) -> Callable[[], Any]:
    scene = Scene(lab)
    scene.worker.submit(*scene.hold("t"))
    scene.trainer.enqueue("other")
    scene.trainer.take(0, 1, seal=False)
    return lambda: scene.trainer.send(calls.discard, "x", ["t"])


def by_advance(lab: Lab) -> Callable[[], Any]:
    scene = Scene(lab)
    scene.worker.submit(*scene.hold("t"))
    scene.trainer.enqueue("other")
    digest = scene.trainer.take(0, 1).digest
    return lambda: scene.trainer.advance(0, digest)


def by_resume(lab: Lab) -> Callable[[], Any]:
    scene = Scene(lab)
    scene.trainer.send(calls.pause, "paused")
    scene.trainer.enqueue("t")
    return lambda: scene.trainer.send(calls.pause, "")


def by_resume_of_an_operator_after_draining(lab: Lab) -> Callable[[], Any]:
    scene = Scene(lab)
    scene.trainer.enqueue("t")
    scene.trainer.send(calls.pause, "draining")
    return lambda: lab.call(calls.pause, calls.operator_call_id("r1"), "")


def by_draining_after_pause_where_a_slot_is_open(lab: Lab) -> Callable[[], Any]:
    scene = Scene(lab)
    scene.trainer.enqueue("t", samples=2)
    scene.worker.take_one()
    scene.trainer.send(calls.pause, "paused")
    return lambda: scene.trainer.send(calls.pause, "draining")


def by_a_config_that_allows_more(lab: Lab) -> Callable[[], Any]:
    lab.keeps_config = False
    scene = Scene(lab)
    scene.hold("t")
    scene.trainer.enqueue("other")

    scene.trainer.config = lab.config(consumer_batch_size=2, max_staleness=0, lease_ms=3_600_000)
    return lambda: lab.call(calls.open_run, "othertoken", scene.trainer.config.to_fields(), update=True)


def by_retry(lab: Lab) -> Callable[[], Any]:
    scene = Scene(lab)
    (attempt,) = scene.hold("t")
    scene.worker.fail(attempt, may_retry=False)
    return lambda: scene.trainer.send(calls.retry, ["t"])


def by_repair(lab: Lab) -> Callable[[], Any]:
    scene = Scene(lab)
    scene.trainer.enqueue("t")
    lab.command("HINCRBY", lab.key("state"), "accepted", 7)
    return lambda: scene.trainer.send(calls.repair)


def recovering(lab: Lab, *ids: str) -> Callable[[], Any]:
    """A recovery to the version that the run has, all but its end, which is returned."""
    token = "recoverer"
    lab.call(recovery.begin, token, recovery.Begin(0), None)
    lab.call(recovery.sweep, calls.trainer_call_id(token, 1), ids, lambda _: True)
    return lambda: lab.call(recovery.end, calls.trainer_call_id(token, 2))


def by_the_end_of_a_recovery(lab: Lab) -> Callable[[], Any]:
    scene = Scene(lab)
    scene.trainer.enqueue("t")
    return recovering(lab, "t")


def by_the_end_of_a_recovery_that_keeps_an_open_slot(lab: Lab) -> Callable[[], Any]:
    scene = Scene(lab)
    scene.trainer.enqueue("t", samples=2)
    scene.worker.take_one()
    return recovering(lab, "t")


def by_a_claim_that_leaves_work_and_capacity(lab: Lab) -> Callable[[], Any]:
    """One wake-up passes from worker to worker."""
    scene = Scene(lab, consumer_batch_size=2)
    scene.trainer.send(calls.pause, "paused")
    scene.trainer.enqueue("t", "u")
    lab.command("HSET", lab.key("state"), "paused", "")  # as if the marker of the resume had gone to `busy`
    return lambda: scene.worker.claim(1)


def by_a_claim_that_leaves_an_open_slot(lab: Lab) -> Callable[[], Any]:
    scene = Scene(lab)
    scene.trainer.send(calls.pause, "paused")
    scene.trainer.enqueue("t", samples=2)
    lab.command("HSET", lab.key("state"), "paused", "")
    return lambda: scene.worker.claim(1)


def by_a_claim_that_takes_back_what_expired(lab: Lab) -> Callable[[], Any]:
    """Two tasks come back, the claim takes one."""
    scene = Scene(lab, consumer_batch_size=2)
    short = lab.raw_worker("short", lease_ms=1_000)
    scene.trainer.enqueue("t", "u")
    short.claim(2)
    lab.pass_ms(1_000)
    return lambda: scene.worker.claim(1)


def by_a_claim_with_stale_weights(lab: Lab) -> Callable[[], Any]:
    """The marker that woke this worker was meant for another worker."""
    scene = Scene(lab)
    scene.trainer.enqueue("t")
    lab.command("HSET", lab.key("state"), "paused", "paused")
    lab.command("HSET", lab.key("state"), "paused", "")
    return lambda: scene.worker.claim(1, policy=(0, "9.another0"))


PATHS = [value for name, value in sorted(globals().items()) if name.startswith("by_")]
#: A worker cannot be blocked in these scenes: it would find the work itself.
MARKER_ONLY = {
    by_a_claim_that_leaves_work_and_capacity, by_a_claim_that_leaves_an_open_slot, by_a_claim_with_stale_weights,
    by_requeue_of_an_expired_lease, by_requeue_of_a_due_retry, by_requeue_of_a_due_slot,
    by_requeue_of_a_timed_out_attempt, by_a_claim_that_takes_back_what_expired,
    by_renew_that_meets_a_stale_task,
}  # fmt: skip
blocking = [path for path in PATHS if path not in MARKER_ONLY]


@pytest.mark.parametrize("path", PATHS, ids=lambda path: path.__name__[3:])
def test_the_marker_is_armed(lab: Lab, path: Callable[[Lab], Callable[[], Any]]):
    """Mutants: no_wake_on_* and others of `wake` in mutants.py."""
    act = path(lab)
    lab.unmark()
    act()
    assert lab.marked()


@pytest.mark.parametrize("path", blocking, ids=lambda path: path.__name__[3:])
def test_a_blocked_worker_wakes_up(lab: Lab, path: Callable[[Lab], Callable[[], Any]], monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("broker.worker.wait_for_work.CLAIM_AGAIN_S", FAR_AWAY_S)
    act = path(lab)
    lab.unmark()
    worker = lab.worker(name="blocked", lease_s=3600.0)
    session = worker._state.sessions[lab.run]
    waiting = InThread(lambda: worker.claim(1, timeout=FAR_AWAY_S))
    wait_until(lambda: session._number == 1 and session._settled == 1, "it claimed in vain")
    assert waiting.is_running
    act()
    attempts = waiting.result()
    assert len(attempts) == 1
    assert session._number == 2


def test_an_empty_run_lets_a_worker_sleep(lab: Lab, monkeypatch: pytest.MonkeyPatch):
    """No marker is armed where a claim could get nothing."""
    scene = Scene(lab)
    (attempt,) = scene.hold("t")
    lab.unmark()
    scene.trainer.enqueue("other")  # no capacity
    assert not lab.marked()
    scene.worker.renew(attempt)
    scene.trainer.send(calls.pause, "paused")
    assert not lab.marked()
    scene.worker.release(attempt)  # a pause keeps everyone asleep
    assert not lab.marked()


def test_one_wake_up_passes_from_worker_to_worker(lab: Lab, monkeypatch: pytest.MonkeyPatch):
    """Eight blocked workers, eight tasks in one call: each worker claims in vain at most a few times, and all get one."""
    monkeypatch.setattr("broker.worker.wait_for_work.CLAIM_AGAIN_S", FAR_AWAY_S)
    trainer = lab.trainer(consumer_batch_size=8)
    workers = [lab.worker(name=f"w{i}") for i in range(8)]
    waiting = [InThread(lambda worker=worker: worker.claim(1, timeout=FAR_AWAY_S)) for worker in workers]
    sessions = [worker._state.sessions[lab.run] for worker in workers]
    wait_until(lambda: all(session._settled == 1 for session in sessions), "all have claimed in vain")
    trainer.enqueue(tasks(8))
    got = [call.result() for call in waiting]
    assert sorted(names_of([attempts[0] for attempts in got])) == [f"t{i}" for i in range(8)]
    assert sum(session._number for session in sessions) <= 8 + 8 + 4


def test_a_worker_wakes_for_what_is_next_due(lab: Lab, monkeypatch: pytest.MonkeyPatch):
    """No call arms a marker when time passes: the worker knows when to claim again."""
    monkeypatch.setattr("broker.worker.wait_for_work.CLAIM_AGAIN_S", FAR_AWAY_S)
    lab.go_live()
    trainer = lab.trainer(retry_backoff_ms=200, lease_ms=3_600_000)
    worker = lab.worker()
    trainer.enqueue(tasks(1))
    worker.fail(worker.claim()[0], "boom")
    assert names_of(worker.claim(1, timeout=FAR_AWAY_S)) == ["t0"]
    assert worker._state.sessions[lab.run]._number <= 4


def test_a_worker_with_stale_weights_does_not_keep_the_marker(lab: Lab, monkeypatch: pytest.MonkeyPatch):
    """The one with usable weights gets the work though the other was woken."""
    monkeypatch.setattr("broker.worker.wait_for_work.CLAIM_AGAIN_S", FAR_AWAY_S)
    trainer = lab.trainer(consumer_batch_size=1, max_staleness=0)
    trainer.advance(allow_empty=True)
    stale = lab.worker(name="stale", policy=Policy(version=0, epoch=trainer.epoch))
    good = lab.worker(name="good")
    lab.unmark()
    waiting = InThread(lambda: good.claim(1, timeout=FAR_AWAY_S))
    wait_until(lambda: good._state.sessions[lab.run]._settled == 1, "it claimed in vain")
    trainer.pause()
    trainer.enqueue(tasks(1))
    assert stale.claim() == []
    trainer.resume()
    assert stale.claim() == []
    assert names_of(waiting.result()) == ["t0"]


# -- trainers ----------------------------------------------------------------------------------------------------------


def ending_by_submit(lab: Lab, worker, attempt) -> None:
    worker.submit(attempt, b"x")


def ending_by_death(lab: Lab, worker, attempt) -> None:
    worker.fail(attempt, "boom", retry=False)


def ending_by_verdict(lab: Lab, worker, attempt) -> None:
    worker.reject(attempt)


def ending_by_cancel(lab: Lab, worker, attempt) -> None:
    lab.call(calls.cancel, calls.operator_call_id("r1"), [attempt.task])


@pytest.mark.parametrize("end", [ending_by_submit, ending_by_death, ending_by_verdict, ending_by_cancel])
def test_a_blocked_trainer_wakes_up(lab: Lab, end: Callable[..., None], monkeypatch: pytest.MonkeyPatch):
    """When enough is ready, and when fewer can come than it waits for. Mutants: no_wake_of_trainer."""
    monkeypatch.setattr("broker.trainer.batches.LOOK_AGAIN_S", FAR_AWAY_S)
    trainer, worker = lab.trainer(consumer_batch_size=2), lab.worker()
    trainer.enqueue(tasks(2))
    run_one(worker)
    (attempt,) = worker.claim()
    waiting = InThread(lambda: trainer.next_batch(short=True))
    wait_until(lambda: lab.stat("want") == 1, "the trainer waits")
    before = trainer._state.numbered.last
    end(lab, worker, attempt)
    expected = ["t0", "t1"] if end is ending_by_submit else ["t0"]
    assert names_of(waiting.result()) == expected
    assert trainer._state.numbered.last <= before + 2


def test_a_trainer_is_woken_once_for_a_batch_not_for_each_rollout(lab: Lab):
    trainer, worker = lab.raw_trainer(consumer_batch_size=4), lab.raw_worker()
    trainer.enqueue(*"abcd")
    assert trainer.take(0, 4).size == 0
    for i in range(4):
        lab.unmark("wake:ready")
        worker.work()
        assert lab.marked("wake:ready") == (i == 3)


@pytest.mark.parametrize("there", [0, 1])
def test_a_trainer_that_took_all_there_was_is_woken_by_more(lab: Lab, there: int):
    """Also where it would have taken a short batch, and found none, or did not seal."""
    trainer, worker = lab.raw_trainer(consumer_batch_size=2), lab.raw_worker()
    for i in range(there):
        trainer.enqueue(f"old{i}")
        worker.work()
    assert (trainer.take(0, 2, seal=False, short=True).size, lab.marked("wake:ready")) == (there, False)
    trainer.enqueue("a", "b")
    worker.work()
    worker.work()
    assert lab.marked("wake:ready")


def test_an_interrupt_while_the_wait_connects_is_not_lost(lab: Lab, monkeypatch: pytest.MonkeyPatch):
    """stop, drain and close come from other threads at any time, also while the first wait makes its connection."""
    dial = BaseTransport._dial
    with open_transport(lab.url) as transport:
        transport.command("PING")

        async def interrupted_meanwhile(*args: Any, **options: Any) -> Any:
            link = await dial(*args, **options)
            transport.interrupt()
            return link

        monkeypatch.setattr(BaseTransport, "_dial", interrupted_meanwhile)
        waiting = InThread(lambda: transport.wait_marker([lab.key("wake")], 20.0))
        try:
            assert waiting.result(3.0) is None
        finally:
            lab.command("ZADD", lab.key("wake"), 0, "1")
            waiting.result()
            lab.unmark()


def is_blocked(lab: Lab) -> bool:
    """Whether a client is blocked in the server; fakeredis has no such thing."""
    return not lab.server.kind.is_real or b"blocked_clients:0\r" not in lab.command("INFO", "clients")


@pytest.mark.parametrize("end", ["stop", "drain"])
def test_stop_and_drain_end_a_wait(lab: Lab, end: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("broker.worker.wait_for_work.CLAIM_AGAIN_S", FAR_AWAY_S)
    lab.trainer()
    worker = lab.worker()
    waiting = InThread(lambda: list(worker))
    wait_until(lambda: worker._state.sessions[lab.run]._settled == 1, "it claimed in vain")
    wait_until(lambda: is_blocked(lab), "it waits")
    getattr(worker, end)()
    assert waiting.result() == []


def test_closing_a_client_ends_its_waits(lab: Lab, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("broker.trainer.batches.LOOK_AGAIN_S", FAR_AWAY_S)
    from broker.errors import ServerUnavailable

    trainer = lab.trainer(consumer_batch_size=2)
    trainer.enqueue(Task(id="t"))
    trainer.enqueue(Task(id="u"))
    waiting = InThread(trainer.next_batch)
    wait_until(lambda: lab.stat("want") == 2, "the trainer waits")
    wait_until(lambda: is_blocked(lab), "it waits")
    trainer.close()
    with pytest.raises(ServerUnavailable, match="closed"):
        waiting.result()


@pytest.mark.parametrize("loop", ["threads", "asyncio"])
@pytest.mark.parametrize("why", ["weights_stale", "no run"])
def test_closing_a_worker_ends_its_pauses_as_its_waits(lab: Lab, loop: str, why: str, monkeypatch: pytest.MonkeyPatch):
    """A loop in another thread or task ends; it does not hear of the connections."""
    lab.checks_state = False
    monkeypatch.setattr("broker.worker.wait_for_work.WEIGHTS_AGAIN_S", FAR_AWAY_S)
    monkeypatch.setattr("broker.worker.wait_for_work.RUN_AGAIN_S", FAR_AWAY_S)
    monkeypatch.setattr("broker.worker.wait_for_work.CLAIM_AGAIN_S", FAR_AWAY_S)
    pausing, pause = threading.Event(), BaseTransport.pause

    async def noted(self: BaseTransport, seconds: float) -> None:
        if seconds > FAR_AWAY_S / 2:
            pausing.set()
        await pause(self, seconds)

    monkeypatch.setattr(BaseTransport, "pause", noted)
    lab.trainer()
    policy = Policy(version=0, epoch="9.other") if why == "weights_stale" else None

    def remove_run() -> None:
        if why == "no run":
            lab.command("DEL", keys.state(lab.run))

    async def main() -> list[Attempt]:
        async with aio.Worker(lab.url, lab.run, policy=policy, heartbeat=False) as worker:
            remove_run()
            waiting = asyncio.create_task(listed(worker))
            await asyncio.to_thread(pausing.wait, 10)
            await worker.close()
            return await asyncio.wait_for(waiting, 10)

    async def listed(worker: aio.Worker) -> list[Attempt]:
        return [attempt async for attempt in worker]

    if loop == "asyncio":
        assert asyncio.run(main()) == []
        return
    worker = lab.worker(policy=policy)
    remove_run()
    waiting = InThread(lambda: list(worker))
    assert pausing.wait(10)
    worker.close()
    assert waiting.result() == []
