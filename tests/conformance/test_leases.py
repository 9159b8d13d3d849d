"""Sessions, leases and time-outs on a simulated clock; the heartbeat's own thread with the real one."""

import asyncio

import pytest

from broker import RunConfig, Task, Trainer, Worker, aio
from broker.errors import NoRun, NoSession, OldRequest
from broker.protocol import anyone
from broker.protocol import worker as worker_calls
from broker.worker.heartbeat import Heartbeat
from tests.child import finished
from tests.conformance.lab import Lab, run_one, tasks
from tests.properties.decode import LEASE_ZERO
from tests.waiting import wait_until


def test_a_lease_runs_out_to_the_millisecond(lab: Lab):
    """Mutants: leases_never_end."""
    trainer, worker, other = lab.trainer(lease_ms=1_000), lab.worker(), lab.worker(lease_s=3600.0)
    trainer.enqueue(tasks(1))
    worker.claim()
    lab.pass_ms(999)
    assert other.claim() == []
    lab.pass_ms(1)
    (attempt,) = other.claim()
    assert (attempt.task, attempt.tries) == ("t0", 1)


def test_a_claim_keeps_a_session_whose_lease_just_ran_out(lab: Lab):
    """No call took the attempt back meanwhile. The claim first extends the lease, then takes back what is due. Mutants: swept_before_extended."""
    trainer, worker = lab.raw_trainer(consumer_batch_size=9, lease_ms=1_000), lab.raw_worker()
    trainer.enqueue("a", "b")
    held = worker.take_one()
    lab.pass_ms(1_000)
    assert [one.task for one in worker.claim(1, random="r2").granted] == ["b"]
    assert worker.submit(held).word == "accepted"


@pytest.mark.parametrize("sign", ["renew", "claim"])
def test_a_sign_of_life_extends_the_lease(lab: Lab, sign: str):
    """Mutants: renew_extends_nothing."""
    trainer, worker, other = lab.trainer(lease_ms=1_000), lab.worker(), lab.worker(lease_s=3600.0)
    trainer.enqueue(tasks(1))
    (attempt,) = worker.claim()
    for _ in range(5):
        lab.pass_ms(900)
        if sign == "renew":
            worker.renew()
        else:
            worker.claim()
        assert other.claim() == []
    assert worker.submit(attempt, b"x").answer == "accepted"


def test_a_worker_may_ask_for_its_own_lease(lab: Lab):
    lab.trainer(lease_ms=1_000)
    lab.worker(name="own", lease_s=5.0)
    lab.worker(name="runs")
    deadlines = {row.session.partition("~")[0]: row.deadline_ms - lab.now for row in lab.call(anyone.facts).sessions}
    assert deadlines == {"own": 5_000, "runs": 1_000}


def test_a_claim_takes_back_what_expired_before_it_hands_out(lab: Lab):
    trainer = lab.trainer(consumer_batch_size=4, lease_ms=1_000, max_attempts=9)
    trainer.enqueue(tasks(4))
    for name in ("a", "b", "c"):
        lab.worker(name=name).claim()
    lab.pass_ms(1_000)
    last = lab.worker(name="last")
    assert [attempt.task for attempt in last.claim(9)] == ["t0", "t1", "t2", "t3"]
    assert trainer.stats().sessions == 1


def test_taking_back_is_bounded_and_goes_on(lab: Lab):
    trainer, worker = lab.raw_trainer(consumer_batch_size=50, lease_ms=1_000), lab.raw_worker()
    trainer.enqueue(*[f"t{i}" for i in range(30)])
    worker.claim(30)
    lab.pass_ms(1_000)
    taken = [lab.call(anyone.requeue, limit=8) for _ in range(5)]
    assert all(n <= 8 for n in taken)
    assert sum(taken) >= 30
    assert lab.stat("n_pending") == 30
    assert lab.stat("n_sessions") == 0


def test_the_hard_limit_of_an_attempt_holds_however_alive_its_worker_is(lab: Lab):
    """Mutants: timeouts_never_end."""
    trainer = lab.trainer(lease_ms=1_000_000, attempt_timeout_ms=2_000, max_attempts=2)
    worker = lab.worker()
    trainer.enqueue(tasks(1))
    (attempt,) = worker.claim()
    lab.pass_ms(1_999)
    trainer.requeue()
    worker.renew()
    assert not attempt.cancelled
    lab.pass_ms(1)
    trainer.requeue()
    worker.renew()
    assert attempt.cancel_reason == "expired"
    assert worker.submit(attempt, b"x").why == "expired"
    (again,) = worker.claim()
    assert again.tries == 1
    lab.pass_ms(2_000)
    trainer.requeue()
    assert lab.row("t0").state == "dead"
    assert lab.dump().get("deadlines") is None


def test_time_outs_that_were_switched_off_leave_nothing(lab: Lab):
    lab.keeps_config = False
    trainer, worker = lab.trainer(consumer_batch_size=9, attempt_timeout_ms=2_000), lab.worker()
    trainer.enqueue(tasks(3))
    a, b, c = worker.claim(3)
    lab.trainer(update=True, consumer_batch_size=9, attempt_timeout_ms=0)
    worker.submit(a, b"x")
    worker.fail(b, "boom")
    worker.release(c)
    assert lab.dump().get("deadlines") is None


def test_calls_of_a_session_that_is_gone_are_refused(lab: Lab):
    trainer, worker = lab.raw_trainer(lease_ms=1_000), lab.raw_worker()
    trainer.enqueue("t")
    attempt = worker.take_one()
    worker.leave()
    for call in (worker.claim, lambda: worker.renew(attempt)):
        with pytest.raises(NoSession) as caught:
            call()
        assert caught.value.fields["session"] == worker.session
    assert worker.leave() is True
    assert worker.submit(attempt).why == "released"


def test_leaving_with_more_than_the_limit_takes_several_calls(lab: Lab):
    trainer, worker = lab.raw_trainer(consumer_batch_size=9), lab.raw_worker()
    trainer.enqueue(*"abcde")
    worker.claim(5)
    answers = [lab.call(worker_calls.leave, worker.session, limit=2) for _ in range(3)]
    assert answers == [False, False, True]
    assert lab.stat("n_pending") == 5


def test_attempts_whose_claim_was_lost_for_good_are_given_back(lab: Lab):
    """Nobody works on these attempts, and their session goes on. Mutants: unknown_attempts_kept."""
    trainer, worker = lab.raw_trainer(consumer_batch_size=9), lab.raw_worker()
    trainer.enqueue(*"ab")
    known = worker.take_one()
    lost = worker.take_one()

    worker.renew(known, number=1)  # the answer of claim 2 may still come
    assert lab.row("b").letters == "H"
    worker.renew(known, number=2)  # it was given up

    assert lab.row("a").letters == "H"
    assert lab.row("b").state == "pending"
    assert worker.submit(lost).why == "released"


def test_renew_says_why_each_attempt_is_to_be_given_up(lab: Lab):
    trainer = lab.raw_trainer(
        consumer_batch_size=9, max_staleness=9, max_concurrent_rollouts=99, retry_backoff_ms=0, max_attempts=9
    )
    worker, other = lab.raw_worker(), lab.raw_worker()
    from broker.protocol import trainer as calls

    trainer.enqueue("done", "cancelled", "failed", "taken", "revoked", "mine")
    trainer.enqueue("pair", samples=2)
    claimed = {one.task: one.attempt_id for one in worker.claim(6).granted}
    pair = [one.attempt_id for one in worker.claim(2, random="r2").granted]
    worker.submit(claimed["done"])
    trainer.send(calls.cancel, ["cancelled", "revoked"])
    worker.fail(claimed["failed"])
    worker.release(claimed["taken"])
    other.claim(2, random="r3")
    worker.submit(pair[0], verdict="reject")

    told = worker.renew(*claimed.values(), *pair, "nobody#0.1.x").abandon

    assert told == {
        claimed["cancelled"]: "cancelled",
        claimed["revoked"]: "cancelled",
        claimed["failed"]: "superseded",
        claimed["taken"]: "superseded",
        pair[0]: "rejected",
        pair[1]: "revoked",
        "nobody#0.1.x": "unknown",
    }


def test_the_newest_claim_is_answered_again_and_older_ones_are_refused(lab: Lab):
    trainer, worker = lab.raw_trainer(consumer_batch_size=9), lab.raw_worker()
    trainer.enqueue(*"abc")
    worker.claim(1, number=3)
    worker.claim(1, number=7)  # gaps are allowed
    with pytest.raises(OldRequest) as caught:
        worker.claim(1, number=3)
    assert (caught.value.fields["number"], caught.value.fields["last"]) == ("3", "7")
    assert lab.stat("n_pending") == 1


# -- the server's clock, on its own (tests/processes/test_server_clock.py moves it) -------------------------------------


def test_a_claim_is_told_to_come_again_before_the_lease_clock_stands_still(lab: Lab):
    """Between two calls the lease clock advances by at most a third of the shortest lease, so a longer wait is of no use."""
    trainer, worker = lab.raw_trainer(consumer_batch_size=9), lab.raw_worker(lease_ms=60_000)
    other = lab.raw_worker(lease_ms=30_000)
    told = lab.do(worker_calls.claim(lab.run, worker.session, 1, 1, "r1"))
    assert 0 < told.due_in_ms <= 10_000
    other.leave()
    told = lab.do(worker_calls.claim(lab.run, worker.session, 2, 1, "r1"))
    assert 10_000 < told.due_in_ms <= 20_000
    assert trainer.opened.version == 0


def test_leases_and_time_outs_of_the_last_release_end_when_they_said(lab: Lab):
    """It had one clock: no offset, no lease clock and no list of leases are stored, and deadlines are on the run's clock."""
    trainer = lab.raw_trainer(consumer_batch_size=9, lease_ms=1_000, attempt_timeout_ms=5_000)
    trainer.enqueue("a", "b")
    worker, other = lab.raw_worker(lease_ms=60_000), lab.raw_worker()
    worker.take_one()
    other.take_one()
    for name in ("sessions", "deadlines"):
        for member in lab.dump()[name]:
            lab.command("ZINCRBY", lab.key(name), -LEASE_ZERO, member)
    lab.command("DEL", lab.key("leases"))
    lab.command("HDEL", lab.key("state"), "shortest_lease", "lease_lag", "clock_offset")
    assert {row.deadline_ms - lab.now for row in lab.call(anyone.facts).sessions} == {1_000, 60_000}
    lab.pass_ms(999)
    assert lab.call(anyone.requeue) == 0
    lab.pass_ms(1)
    assert lab.call(anyone.requeue) == 1
    assert lab.states() == {"a": "running", "b": "pending"}
    worker.renew(*lab.attempts_of("a"))
    lab.pass_ms(4_000)
    assert lab.call(anyone.requeue) == 1
    assert lab.states() == {"a": "pending", "b": "pending"}
    lab.checks_state = False  # the lease of a session that an earlier release began is on no list


def test_the_last_release_ends_no_lease_of_this_one(lab: Lab):
    """It takes their deadlines for far away, and says of the first timer only that it is there."""
    trainer, worker = lab.raw_trainer(consumer_batch_size=9, lease_ms=1_000), lab.raw_worker()
    trainer.enqueue("a")
    worker.take_one()
    ((_, deadline),) = lab.dump()["sessions"].items()
    lab.command("HSET", lab.key("state"), "due", deadline)  # as its sweep does
    lab.pass_ms(1_000)
    assert int(deadline) > lab.now
    assert lab.call(anyone.requeue) == 1
    assert lab.states() == {"a": "pending"}


# -- the heartbeat -----------------------------------------------------------------------------------------------------


def test_the_heartbeat_keeps_a_short_lease_for_a_long_task(lab: Lab):
    """With the real clock: the task takes five times as long as the lease. Mutants: renew_extends_nothing."""
    config = RunConfig(consumer_batch_size=1, lease_ms=300)
    with Trainer(lab.url, lab.run, config) as trainer, Worker(lab.url, lab.run) as worker:
        trainer.enqueue(Task(id="t"))
        (attempt,) = worker.claim(timeout=5)
        deadline = first = trainer.explain().sessions[0].deadline_ms

        def renewed_often() -> bool:
            nonlocal deadline
            trainer.requeue()
            deadline = trainer.explain().sessions[0].deadline_ms
            return deadline > first + 1_500

        wait_until(renewed_often, "the lease was renewed five times over")
        assert worker.submit(attempt, b"x").answer == "accepted"


def test_the_heartbeat_cancels_what_the_server_takes_back(lab: Lab):
    config = RunConfig(consumer_batch_size=1, lease_ms=300)
    with Trainer(lab.url, lab.run, config) as trainer, Worker(lab.url, lab.run) as worker:
        trainer.enqueue(Task(id="t"))
        (attempt,) = worker.claim(timeout=5)
        trainer.cancel(["t"])
        wait_until(lambda: attempt.cancelled, "the heartbeat says so")
        assert attempt.cancel_reason == "cancelled"


def test_the_heartbeat_outlives_the_session(lab: Lab):
    config = RunConfig(consumer_batch_size=1, lease_ms=300)
    with Trainer(lab.url, lab.run, config) as trainer, Worker(lab.url, lab.run) as worker:
        trainer.enqueue(Task(id="t"))
        (attempt,) = worker.claim(timeout=5)
        lab.command("DEL", lab.key("sessions"), lab.key("leases"), lab.key("calls"))  # as a server does that lost them
        wait_until(lambda: attempt.cancelled, "the worker hears that its session is gone")
        lab.transport.execute([worker_calls.release(lab.run, [attempt.id])])
        (again,) = worker.claim(timeout=5)
        before = trainer.explain().sessions[0].deadline_ms
        wait_until(lambda: trainer.explain().sessions[0].deadline_ms > before, "the new lease is renewed too")
        worker.submit(again, b"x")
        lab.command("DEL", lab.key(f"session:{attempt.id}"))


def test_two_workers_with_one_name_are_two_sessions(lab: Lab):
    trainer = lab.trainer(consumer_batch_size=2)
    one, two = lab.worker(name="same"), lab.worker(name="same")
    trainer.enqueue(tasks(2))
    assert {run_one(one), run_one(two)} == {"t0", "t1"}
    assert trainer.stats().sessions == 2


@pytest.mark.parametrize("flavour", ["sync", "aio"])
@pytest.mark.parametrize("how", [KeyboardInterrupt, SystemExit, NoRun])
def test_a_worker_that_was_not_made_leaves_no_session(
    lab: Lab, monkeypatch: pytest.MonkeyPatch, flavour: str, how: type[BaseException]
):
    """No code has a reference to the worker and could close it. Its session must not wait for the end of its lease."""
    trainer = lab.trainer()
    runs = [lab.run, f"{lab.run}-missing"] if how is NoRun else [lab.run]

    def interrupted(_heartbeat: Heartbeat) -> None:
        assert trainer.stats().sessions == 1
        raise how

    monkeypatch.setattr(Heartbeat, "start", interrupted)

    async def opened() -> None:
        await aio.Worker(lab.url, runs, clock=lab.clock).open()

    with pytest.raises(how):
        if flavour == "sync":
            Worker(lab.url, runs, clock=lab.clock)
        else:
            asyncio.run(opened())
    assert trainer.stats().sessions == 0
    assert [event for event, _ in lab.transitions() if event == "join"] == ["join"]


def test_a_forked_child_submits_and_leaves_the_sessions_alone(lab: Lab):
    """Its claims would have the numbers of its parent's, and its end would give back what the parent works on."""
    _works_on_eight_tasks(
        lab,
        """
        for first in worker:
            second, third = worker.claim(2)
            if not (child := os.fork()):
                for claim in (worker.claim, lambda: next(worker.batches(1)), lambda: worker.run(print)):
                    try:
                        claim()
                    except BadArgument as error:
                        assert "this worker was opened before a fork" in str(error)
                    else:
                        os._exit(3)
                assert worker.submit(first, b"x").accepted
                sys.exit(7)
            assert os.waitpid(child, 0)[1] == 7 << 8
            worker.renew()
            assert not second.cancelled
            assert worker.submit_many([(second, b"x"), (third, b"x")])[1].accepted
            assert trainer.stats().ready == 3
            assert 4 <= len(worker.claim(8)) <= 5  # one may have come with the results, for the loop
            break
""",
    )


def test_a_forked_child_that_goes_on_with_its_parents_loop_takes_nothing_from_it(lab: Lab):
    """What came with the results of the parent is the parent's: the child neither gives it back nor claims more."""
    _works_on_eight_tasks(
        lab,
        """
        loop, done = iter(worker), []
        for attempt in loop:
            assert worker.submit(attempt, b"x").accepted, attempt
            done.append(attempt.task)
            if len(done) == 8:
                break
            if len(done) > 4:
                continue
            if not (child := os.fork()):
                if len(done) % 2:
                    sys.exit(7)  # it leaves the loop
                try:
                    next(loop)
                except BadArgument as error:
                    assert "this worker was opened before a fork" in str(error)
                    worker.close()
                    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
                    os._exit(7)
            assert os.waitpid(child, 0)[1] == 7 << 8
        assert sorted(done) == [str(i) for i in range(8)]
        assert trainer.stats().totals.get("released", 0) == 0
""",
    )


def test_a_forked_child_waits_for_no_lock_that_a_thread_of_its_parent_holds(lab: Lab):
    """Each lock is held for a moment, and a fork may come in that moment: in the child nobody would release it."""
    _works_on_eight_tasks(
        lab,
        """
        from broker.worker.permits import Permits
        from tests.held_locks import all_locks_held
        first, *more = worker.claim(8)
        permits = Permits(worker._state, 1)  # a handler of `run` may be what forks
        permits.take(first)
        with all_locks_held() as held:
            child = os.fork()
            if not child:
                signal.alarm(20)
                assert held > 5, held
                assert trainer.stats().running == 8
                assert len(worker.held) == 8
                assert worker.submit(first, b"x").accepted
                permits.give(first)
                assert all(a.accepted for a in worker.submit_many([(each, b"x") for each in more[:2]]))
                assert worker.reject(more[2]).answer == "rejected"
                assert worker.fail(more[3], "it failed").answer == "retried"
                assert worker.release(more[4])[0].answer == "released"
                assert more[5].mark_cancelled("for a test")
                for call in (worker.claim, lambda: worker.run(print), worker.renew, lambda: trainer.enqueue([])):
                    try:
                        call()
                    except BadArgument as error:
                        assert "was opened before a fork" in str(error)
                    else:
                        os._exit(3)
                worker.stop()
                worker.close()
                trainer.close()
                os._exit(7)
        assert os.waitpid(child, 0)[1] == 7 << 8
        assert len(worker.held) == 8
        assert trainer.stats().ready == 3
""",
    )


def _works_on_eight_tasks(lab: Lab, block: str) -> None:
    """Runs a block of Python in a process of its own, with a trainer and a worker that may fork."""
    if lab.url.startswith("fakeredis"):
        pytest.skip("its server is in one process")
    lab.go_live()
    code = f"""
import os, signal, sys
from broker import BadArgument, RunConfig, Task, Trainer, Worker
with Trainer({lab.url!r}, {lab.run!r}, RunConfig(consumer_batch_size=8)) as trainer:
    trainer.enqueue(Task(id=str(i)) for i in range(8))
    with Worker({lab.url!r}, {lab.run!r}) as worker:{block}
"""
    # Python 3.12 and later warn of a fork beside threads, such as the heartbeat's.
    done = finished("-W", "ignore::DeprecationWarning", "-c", code)
    assert (done.code, done.err) == (0, "")
