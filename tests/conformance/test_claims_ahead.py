"""Claims sent along with results or with a wait: no attempt is held without work on it, and no caller waits for a lock."""

import asyncio
import signal
import threading
import time
from collections.abc import Coroutine, Sequence
from contextlib import suppress
from typing import Any

import pytest

from broker import Attempt, BrokerError, OutOfMemory, Policy, RunConfig, ServerUnavailable, Task, Trainer, Worker, aio
from broker.connections import AsyncTransport
from broker.protocol.script_call import ScriptCall
from broker.worker.session import Session
from tests.conformance.lab import Lab, tasks
from tests.threads import InThread
from tests.waiting import wait_until

FAR_AWAY_S = 15.0


@pytest.fixture
def trainer(lab: Lab):
    with Trainer(lab.url, lab.run, RunConfig(consumer_batch_size=300, max_staleness=9, halt_after_failures=0)) as made:
        yield made


@pytest.fixture
def worker(lab: Lab, trainer: Trainer):
    with Worker(lab.url, lab.run, heartbeat=False) as made:
        yield made


def is_waiting(monkeypatch: pytest.MonkeyPatch) -> threading.Event:
    """An event that is set when a session of this process begins a wait with a claim."""
    begun, claim_waking = threading.Event(), Session.claim_waking

    def noted(self: Session, *args: Any) -> Any:
        begun.set()
        return claim_waking(self, *args)

    monkeypatch.setattr(Session, "claim_waking", noted)
    return begun


# -- a run that is not there -------------------------------------------------------------------------------------------


def test_a_run_that_vanishes_while_a_worker_waits_is_waited_for(lab: Lab, monkeypatch: pytest.MonkeyPatch):
    lab.checks_state = lab.keeps_config = False
    lab.go_live()
    monkeypatch.setattr("broker.worker.wait_for_work.CLAIM_AGAIN_S", 0.3)
    begun = is_waiting(monkeypatch)
    with Trainer(lab.url, lab.run, RunConfig(consumer_batch_size=1)):
        with Worker(lab.url, lab.run, heartbeat=False) as worker:
            waiting = InThread(lambda: worker.claim(1, timeout=FAR_AWAY_S))
            assert begun.wait(5)
            for name in lab.transport.scan(f"*{lab.run}*"):
                lab.command("DEL", name)
            wait_until(lambda: not worker.sessions[lab.run], "the worker noticed")
            with Trainer(lab.url, lab.run, RunConfig(consumer_batch_size=1)) as again:
                again.enqueue(Task(id="t"))
                assert [attempt.task for attempt in waiting.result()] == ["t"]


def test_a_claim_that_was_given_up_before_it_arrived_does_not_keep_what_nobody_knows(lab: Lab):
    lab.raw_trainer().enqueue("t")
    worker = lab.raw_worker()
    worker.claim(1)
    worker.renew(number=0)  # its answer may be on its way
    assert lab.row("t").state == "running"
    worker.renew(number=2)
    assert lab.row("t").state == "pending"


# -- several threads ---------------------------------------------------------------------------------------------------


def test_results_of_other_threads_do_not_wait_for_a_loop_that_waits_for_work(
    trainer: Trainer, worker: Worker, monkeypatch: pytest.MonkeyPatch
):
    begun = is_waiting(monkeypatch)
    trainer.enqueue(Task(id="t0"))
    loop = iter(worker)
    attempt = next(loop)
    following = InThread(lambda: next(loop))
    assert begun.wait(5)
    submitting = InThread(lambda: worker.submit(attempt, b"x"))
    wait_until(lambda: trainer.stats().ready == 1, "the result is there", 3)
    assert submitting.result().accepted
    trainer.enqueue(Task(id="t1"))
    assert following.result().task == "t1"


def test_what_is_claimed_ahead_when_the_loop_has_ended_is_given_back(
    trainer: Trainer, worker: Worker, monkeypatch: pytest.MonkeyPatch
):
    trainer.enqueue(tasks(4))
    batches = worker.batches(2)
    batch = next(batches)
    claimed, ended = threading.Event(), threading.Event()
    taken_in = Session.taken_in

    async def slow(self: Session, claimed_now: Any) -> Any:
        attempts = await taken_in(self, claimed_now)
        claimed.set()
        assert ended.wait(5)
        return attempts

    monkeypatch.setattr(Session, "taken_in", slow)
    submitting = InThread(lambda: worker.submit_many([(attempt, b"x") for attempt in batch]))
    assert claimed.wait(5)
    batches.close()
    ended.set()
    submitting.result()
    assert worker.held == []
    assert trainer.stats().pending == 2


# -- errors ------------------------------------------------------------------------------------------------------------


def test_an_error_after_a_claim_ahead_loses_nothing(trainer: Trainer, worker: Worker, monkeypatch: pytest.MonkeyPatch):
    trainer.enqueue(tasks(200))
    batches = worker.batches(100)
    worker.submit_many([(attempt, b"x") for attempt in next(batches)])
    assert len(worker.held) == 64

    async def refused(self: Session, *_: Any) -> Any:
        raise OutOfMemory(url="u", message="OOM")

    monkeypatch.setattr(Session, "claim", refused)
    handed_out: list[Any] = []
    with suppress(BrokerError):
        handed_out += next(batches)
    assert sorted(attempt.id for attempt in worker.held) == sorted(attempt.id for attempt in handed_out)


def test_what_cannot_be_given_back_when_a_loop_ends_is_left_to_the_heartbeat(
    trainer: Trainer, worker: Worker, monkeypatch: pytest.MonkeyPatch
):
    trainer.enqueue(tasks(4))
    batches = worker.batches(2)
    worker.submit_many([(attempt, b"x") for attempt in next(batches)])

    async def unavailable(self: Session, *_: Any) -> Any:
        raise ServerUnavailable(url="u", seconds=0, error="away")

    with monkeypatch.context() as away:
        away.setattr(Session, "release", unavailable)
        with suppress(BrokerError):
            batches.close()
    assert worker.held == []
    worker.renew()
    assert trainer.stats().pending == 2


def test_what_was_claimed_ahead_for_other_weights_is_given_back(trainer: Trainer, worker: Worker):
    trainer.enqueue(tasks(4))
    epoch = trainer.epoch
    worker.policy = Policy(version=0, epoch=epoch)
    batches = worker.batches(2)
    worker.submit_many([(attempt, b"x") for attempt in next(batches)])
    trainer.advance(allow_empty=True)
    worker.policy = Policy(version=1, epoch=epoch)
    following = next(batches)
    assert {attempt.policy for attempt in following} == {worker.policy}
    assert len(worker.held) == 2


def test_what_was_claimed_ahead_and_cancelled_meanwhile_is_not_handed_out(trainer: Trainer, worker: Worker):
    trainer.enqueue(tasks(6))
    batches = worker.batches(2)
    worker.submit_many([(attempt, b"x") for attempt in next(batches)])
    trainer.cancel(["t2"])
    worker.renew()
    assert [attempt.task for attempt in next(batches)] == ["t3"]
    assert [attempt.task for attempt in worker.held] == ["t3"]


# -- asyncio -----------------------------------------------------------------------------------------------------------


def run_async(main: Any) -> None:
    async def in_time() -> None:
        async with asyncio.timeout(20):
            await main

    asyncio.run(in_time())


def test_a_cancelled_claim_of_many_holds_nothing(lab: Lab, trainer: Trainer, monkeypatch: pytest.MonkeyPatch):
    async def main() -> None:
        execute, calls = AsyncTransport.execute, 0

        async def second_hangs(self: AsyncTransport, script_calls: Sequence[ScriptCall[Any]], *_: Any) -> list[Any]:
            nonlocal calls
            if script_calls[0].script == "claim":
                calls += 1
                if calls == 2:
                    await asyncio.Event().wait()
            return await execute(self, script_calls)

        async with aio.Worker(lab.url, lab.run, heartbeat=False) as worker:
            monkeypatch.setattr(AsyncTransport, "execute", second_hangs)
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.3):
                    await worker.claim(100)
            assert calls == 2
            assert worker.held == []
            await worker.renew()
            assert (await asyncio.to_thread(trainer.stats)).pending == 100

    trainer.enqueue(tasks(100))
    run_async(main())


def test_handlers_that_are_cancelled_claim_nothing_more(lab: Lab, trainer: Trainer, monkeypatch: pytest.MonkeyPatch):
    async def main() -> None:
        execute, submitting = AsyncTransport.execute, asyncio.Event()
        begun: list[str] = []

        async def first_submit_hangs(
            self: AsyncTransport, script_calls: Sequence[ScriptCall[Any]], *_: Any
        ) -> list[Any]:
            if script_calls[0].script == "submit" and not submitting.is_set():
                submitting.set()
                await asyncio.Event().wait()
            if submitting.is_set():
                scripts.extend(script_call.script for script_call in script_calls)
            return await execute(self, script_calls)

        async def handler(attempt: Any) -> bytes:
            begun.append(attempt.task)
            return b"x"

        scripts: list[str] = []
        async with aio.Worker(lab.url, lab.run, heartbeat=False) as worker:
            monkeypatch.setattr(AsyncTransport, "execute", first_submit_hangs)
            running = asyncio.create_task(worker.run(handler, concurrency=2))
            await submitting.wait()
            running.cancel()
            with pytest.raises(asyncio.CancelledError):
                await running
            assert "claim" not in scripts
            assert worker.held == []
        assert begun == ["t0", "t1"]

    trainer.enqueue(tasks(6))
    run_async(main())
    assert trainer.stats().ready == 2


def test_results_of_other_tasks_do_not_wait_for_a_loop_that_waits_for_work(lab: Lab, trainer: Trainer):
    async def main() -> None:
        async with aio.Worker(lab.url, lab.run, heartbeat=False) as worker:
            batches = worker.batches(1)
            batch = await anext(batches)
            following = asyncio.create_task(anext(batches))
            await asyncio.sleep(0.1)
            async with asyncio.timeout(3):
                (answer,) = await worker.submit_many([(batch[0], b"x")])
            assert answer.accepted
            await asyncio.to_thread(trainer.enqueue, [Task(id="t1")])
            assert [attempt.task for attempt in await following] == ["t1"]

    trainer.enqueue(Task(id="t0"))
    run_async(main())


def test_results_do_not_queue_behind_a_loop_whose_turn_it_is(lab: Lab, trainer: Trainer):
    async def main() -> None:
        async with aio.Worker(lab.url, lab.run, heartbeat=False) as worker:
            batches = worker.batches(1)
            batch = await anext(batches)
            await worker._claiming.acquire()
            following = asyncio.create_task(anext(batches))
            await asyncio.sleep(0.05)
            worker._claiming.release()
            async with asyncio.timeout(3):
                (answer,) = await worker.submit_many([(batch[0], b"x")])
            assert answer.accepted
            worker.drain()
            with pytest.raises(StopAsyncIteration):
                await following

    trainer.enqueue(Task(id="t0"))
    run_async(main())


# -- servers that forget -----------------------------------------------------------------------------------------------


def test_scripts_that_are_flushed_while_a_worker_waits_are_loaded_again(
    lab: Lab, trainer: Trainer, worker: Worker, monkeypatch: pytest.MonkeyPatch
):
    begun = is_waiting(monkeypatch)
    state = worker._transport.io
    for server in state._servers.values():
        server.calls_functions = False
    assert worker.claim(1) == []
    waiting = InThread(lambda: worker.claim(1, timeout=FAR_AWAY_S))
    assert begun.wait(5)
    lab.command("SCRIPT", "FLUSH")
    trainer.enqueue(Task(id="t"))
    assert [attempt.task for attempt in waiting.result()] == ["t"]


@pytest.mark.parametrize("call", ["submit", "submit_many", "reject", "fail", "release"])
def test_what_a_cancelled_caller_reports_arrives_and_its_attempt_is_held_no_more(lab: Lab, trainer: Trainer, call: str):
    """Inside and outside the loop over attempts: else the heartbeat would keep an attempt whose result is never sent."""
    trainer.enqueue(tasks(2))

    def reported(worker: aio.Worker, attempt: Attempt) -> Coroutine[Any, Any, object]:
        match call:
            case "submit":
                return worker.submit(attempt, b"x")
            case "submit_many":
                return worker.submit_many([(attempt, b"x")])
            case "fail":
                return worker.fail(attempt, "an error", retry=False)
            case _:
                return getattr(worker, call)(attempt)

    async def report_and_cancel(worker: aio.Worker, attempt: Attempt) -> None:
        reporting = asyncio.create_task(reported(worker, attempt))
        await asyncio.sleep(0)
        reporting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await reporting
        async with asyncio.timeout(20):
            while attempt in worker.held:
                await asyncio.sleep(0.01)

    async def main() -> None:
        async with aio.Worker(lab.url, lab.run, heartbeat=False) as worker:
            (attempt,) = await worker.claim()
            await report_and_cancel(worker, attempt)
            async for other in worker:
                await report_and_cancel(worker, other)
                break
            async with asyncio.timeout(20):
                while worker._claiming.locked():  # until the call that rode along has ended, too
                    await asyncio.sleep(0.01)

    asyncio.run(main())
    stats = trainer.stats()
    assert {"reject": stats.rejected, "fail": stats.dead, "release": stats.pending}.get(call, stats.ready) == 2


@pytest.mark.parametrize("call", ["submit", "submit_many"])
def test_a_worker_that_is_closed_sends_first_what_cancelled_callers_submitted(
    lab: Lab, trainer: Trainer, monkeypatch: pytest.MonkeyPatch, call: str
):
    trainer.enqueue(tasks(1))
    submit = Session.submit

    async def slowly(self: Session, *args: Any) -> Any:
        await asyncio.sleep(0.3)  # a worker that did not wait for this would have left by then
        return await submit(self, *args)

    monkeypatch.setattr(Session, "submit", slowly)

    async def main() -> None:
        async with aio.Worker(lab.url, lab.run, heartbeat=False) as worker:
            (attempt,) = await worker.claim()
            reported = worker.submit(attempt, b"x") if call == "submit" else worker.submit_many([(attempt, b"x")])
            reporting = asyncio.create_task(reported)
            await asyncio.sleep(0)
            reporting.cancel()

    asyncio.run(main())
    assert trainer.stats().ready == 1


# -- a signal handler that raises --------------------------------------------------------------------------------------


class Alarm(Exception):
    """Raised by the signal handler."""


@pytest.mark.parametrize("call", ["submit", "submit_many"])
def test_a_signal_handler_that_raises_leaves_the_turn_to_claim_free(
    worker: Worker, monkeypatch: pytest.MonkeyPatch, call: str
):
    """Else every later claim of this worker waited for ever: Ctrl-C that the user's loop catches, an alarm."""
    armed = [False]

    def raised(_number: int, _frame: Any) -> None:
        if armed[0]:
            armed[0] = False
            raise Alarm

    def not_sent(*_: Any, **__: Any) -> None:
        """In place of what sends results."""

    worker._calls._batch_size = 1
    monkeypatch.setattr(worker._calls, call, not_sent)
    monkeypatch.setattr(worker, "_run", not_sent)
    submit: Any = worker.submit if call == "submit" else worker.submit_many
    given: Any = (None, b"x") if call == "submit" else ([],)
    before, until = signal.signal(signal.SIGALRM, raised), time.monotonic() + 1.5
    came = 0
    signal.setitimer(signal.ITIMER_REAL, 0.0002, 0.0002)
    try:
        while time.monotonic() < until:
            try:
                armed[0] = True
                while True:
                    submit(*given)
            except Alarm:
                came += 1
            assert not worker._claiming.locked(), f"after {came} signals"
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
        worker._calls._batch_size = 0
    assert came > 100
