"""Attempts that the server has called over: the worker no longer holds them, whatever the user does with them."""

import asyncio
from collections.abc import Callable, Coroutine, Generator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import pytest

from broker import Attempt, aio
from broker.worker.session import Submitted
from tests.conformance.lab import Lab, tasks


class Held:
    """A worker of either client that renews by itself only when told, behind one face."""

    def __init__(self, worker: Any, run: Callable[[Any], Any]) -> None:
        self.worker, self._run = worker, run

    def __getattr__(self, name: str) -> Any:
        call = getattr(self.worker, name)
        if not callable(call):
            return call
        return lambda *args, **options: self._run(call(*args, **options))

    @property
    def told(self) -> list[str]:
        """The attempts that its next heartbeat names."""
        (session,) = self.worker._state.sessions.values()
        script_call = session.renew_call()
        return [] if script_call is None else [str(arg) for arg in script_call.args[3:]]


@pytest.fixture(params=["sync", "aio"])
def held(request: pytest.FixtureRequest, lab: Lab) -> "Make":
    """Makes it once the run is there."""

    @contextmanager
    def made() -> Generator[Held]:
        if request.param == "sync":
            yield Held(lab.worker(), lambda value: value)
            return
        loop = asyncio.new_event_loop()
        worker = aio.Worker(lab.url, lab.run, name="w", clock=lab.clock, heartbeat=False)
        try:

            def finished(value: Any) -> Any:
                return loop.run_until_complete(value) if isinstance(value, Coroutine) else value

            finished(worker.open())
            yield Held(worker, finished)
        finally:
            loop.run_until_complete(worker.close())
            loop.close()

    return made


Make = Callable[[], AbstractContextManager[Held]]


def late_answers(held: Held, attempts: list[Attempt]) -> list[Submitted]:
    """The answers to a user who submits, fails, rejects and releases an attempt that is over."""
    submitted, failed, rejected, released = attempts
    return [
        held.submit(submitted, b"x"),
        held.fail(failed, "too late"),
        held.reject(rejected, "too late"),
        held.release(released)[0],
    ]


def test_what_was_cancelled_is_not_held(lab: Lab, held: Make):
    """A user who sees that an attempt is cancelled drops it. It must not stay in each heartbeat of the worker."""
    trainer = lab.trainer(max_staleness=None, max_concurrent_rollouts=9)
    trainer.enqueue(tasks(5))
    with held() as worker:
        *over, left = worker.claim(5)
        trainer.cancel([attempt.task for attempt in over])
        worker.renew()
        assert {attempt.cancel_reason for attempt in over} == {"cancelled"}
        assert worker.held == [left]
        assert worker.told == [left.id]
        answers = late_answers(worker, over)
        assert [(answer.answer, answer.why) for answer in answers] == [("unknown", "cancelled")] * 4
        assert worker.held == [left]
        assert worker.submit(left, b"x").accepted


def test_what_became_too_old_is_not_held(lab: Lab, held: Make):
    trainer = lab.trainer(max_staleness=1, staleness_limit=1, max_concurrent_rollouts=9, consumer_batch_size=2)
    trainer.enqueue(tasks(4))
    with held() as worker:
        over = worker.claim(4)
        trainer.advance(allow_empty=True)
        trainer.advance(allow_empty=True)
        worker.renew()
        assert {attempt.cancel_reason for attempt in over} == {"stale"}
        assert (worker.held, worker.told) == ([], [])
        assert [answer.answer for answer in late_answers(worker, over)] == ["stale"] * 4


def test_what_a_lost_session_held_is_not_held(lab: Lab, held: Make):
    """The lease passed, and another worker has the task. The answer to a late result names that worker."""
    trainer = lab.trainer(max_staleness=None, max_concurrent_rollouts=9)
    trainer.enqueue(tasks(4))
    with held() as worker:
        over = worker.claim(4)
        lab.pass_ms(trainer.config.lease_ms + 1)
        other = lab.worker(name="other")
        assert len(other.claim(4)) == 4
        worker.renew()
        assert {attempt.cancel_reason for attempt in over} == {"expired"}
        assert worker.held == []
        assert worker.claim(1) == []  # it joins anew
        assert (worker.held, worker.told) == ([], [])
        answers = late_answers(worker, over)
        assert [(answer.answer, answer.by_worker) for answer in answers] == [("superseded", "other")] * 4
