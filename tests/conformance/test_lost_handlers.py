"""Handlers that go on although their attempts were taken back: other attempts get their places, within bounds."""

import asyncio
import threading
from collections.abc import Generator
from contextlib import ExitStack, contextmanager, suppress
from typing import Any

import pytest

from broker import Attempt, Trainer, Worker, aio
from broker.errors import HandlersLost
from broker.worker import loop_watch
from broker.worker.permits import LOST_AFTER_S, Permits
from broker.worker.state import WorkerState
from tests.conformance.lab import Lab, names_of, tasks
from tests.threads import InThread
from tests.waiting import wait_until


class Working:
    """A worker in `run`, with threads or with asyncio, whose handlers hang on some tasks until they are freed."""

    def __init__(self, lab: Lab, loop: str, concurrency: int, hanging: tuple[str, ...]) -> None:
        self._lab, self._loop, self._concurrency, self._hanging = lab, loop, concurrency, hanging
        self._freed = threading.Event()
        self.hung: list[str] = []
        self.most = self._now = 0
        self._lock = threading.Lock()
        self.worker: Worker | aio.Worker | None = None
        self._in_thread = InThread(self._work)

    def _work(self) -> None:
        if self._loop == "threads":
            with Worker(self._lab.url, self._lab.run, lease_s=0.6) as self.worker:
                self.worker.run(self._handle, concurrency=self._concurrency)
        else:
            asyncio.run(self._work_in_asyncio())

    async def _work_in_asyncio(self) -> None:
        async with aio.Worker(self._lab.url, self._lab.run, lease_s=0.6) as self.worker:
            await self.worker.run(self._awaited, concurrency=self._concurrency)

    def _begins(self, attempt: Attempt) -> bool:
        if attempt.task in self._hanging:
            self.hung.append(attempt.id)
            return True
        with self._lock:
            self._now += 1
            self.most = max(self.most, self._now)
        return False

    def _ends(self) -> None:
        with self._lock:
            self._now -= 1

    def _handle(self, attempt: Attempt) -> str:
        if self._begins(attempt):
            self._freed.wait()
        else:
            threading.Event().wait(0.01)
            self._ends()
        return attempt.task

    async def _awaited(self, attempt: Attempt) -> str:
        if self._begins(attempt):
            while not self._freed.is_set():
                with suppress(asyncio.CancelledError):
                    await asyncio.sleep(0.05)
        else:
            await asyncio.sleep(0.01)
            self._ends()
        return attempt.task

    def free(self) -> None:
        """Lets the hanging handlers end."""
        self._freed.set()

    def stop(self) -> None:
        """Tells the worker to stop."""
        if isinstance(self.worker, Worker):
            self.worker.stop()
        elif self.worker is not None and self.worker._loop is not None:
            with suppress(RuntimeError):  # closed already
                self.worker._loop.call_soon_threadsafe(self.worker.stop)

    @property
    def has_ended(self) -> bool:
        """Whether `run` has returned or raised."""
        return not self._in_thread.is_running

    def result(self) -> Any:
        """Waits for the end of `run`, and raises what it raised."""
        return self._in_thread.result()


@contextmanager
def working(lab: Lab, loop: str, concurrency: int, *hanging: str) -> Generator[Working]:
    """A worker as above; it has ended afterwards, and no handler hangs any more."""
    one = Working(lab, loop, concurrency, hanging)
    try:
        yield one
    finally:
        one.free()
        one.stop()
        with suppress(HandlersLost):
            one.result()


def live_trainer(lab: Lab, **config: Any) -> Trainer:
    lab.go_live()
    return lab.trainer(retry_backoff_ms=1, max_concurrent_rollouts=20, max_staleness=20, **config)


@pytest.mark.parametrize("loop", ["threads", "asyncio"])
def test_one_task_that_hangs_does_not_stop_the_run(lab: Lab, loop: str):
    """Two workers with two places each: at most three attempts hang, until the task is dead; all others are trained on."""
    trainer = live_trainer(lab, consumer_batch_size=4, attempt_timeout_ms=300, max_attempts=3)
    trainer.enqueue(tasks(25))
    seen: list[str] = []
    with ExitStack() as stack:
        workers = [stack.enter_context(working(lab, loop, 2, "t0")) for _ in range(2)]
        while len(seen) < 24:
            seen += names_of(trainer.next_batch(timeout=30))
            trainer.advance()
        wait_until(lambda: lab.stat("n_dead") == 1, "the task that hangs is dead")
        hung = [attempt for worker in workers for attempt in worker.hung]
        assert len(hung) == 3
        assert max(worker.most for worker in workers) <= 2
    assert sorted(seen) == sorted(f"t{i}" for i in range(1, 25))


@pytest.mark.parametrize("loop", ["threads", "asyncio"])
def test_a_worker_that_has_lost_all_places_ends_with_an_error(lab: Lab, loop: str, caplog: pytest.LogCaptureFixture):
    trainer = live_trainer(lab, attempt_timeout_ms=300, max_attempts=1, halt_after_failures=0)
    trainer.enqueue(tasks(2, "bad"))
    with working(lab, loop, 2, "bad0", "bad1") as one:
        wait_until(lambda: lab.stat("n_dead") == 2, "their time is over, though nobody else calls")
        trainer.enqueue(tasks(1))
        if loop == "asyncio":  # the event loop waits for its tasks
            wait_until(lambda: "has lost all its places (2)" in caplog.text, "the worker says it")
            one.free()
        with pytest.raises(HandlersLost, match=r"worker .* has lost all its places \(2\) .*bad0#0") as raised:
            one.result()
    notes = "\n".join(raised.value.__notes__)
    assert notes.count("test_lost_handlers.py") >= 2
    assert notes.count("self._freed.wait()" if loop == "threads" else "await asyncio.sleep(0.05)") == 2
    assert notes in caplog.text
    assert trainer.stats().sessions == 0
    assert trainer.stats().pending == 1


@pytest.mark.parametrize("loop", ["threads", "asyncio"])
def test_a_handler_that_ends_after_all_gives_its_place_back(lab: Lab, loop: str):
    """One is lost of two; it ends, and another one may be lost."""
    trainer = live_trainer(lab, attempt_timeout_ms=300, max_attempts=1)
    trainer.enqueue(tasks(1, "bad"))
    with working(lab, loop, 2, "bad0", "worse0") as one:
        wait_until(lambda: one.worker is not None and len(one.hung) == 1, "one hangs")
        trainer.enqueue(tasks(8))
        wait_until(lambda: lab.stat("n_ready") == 8, "the others are done")
        one.free()
        wait_until(lambda: not places_of(one).attempts, "all places are free")
        assert places_of(one).room == 2


def places_of(one: Working) -> Permits:
    worker = one.worker
    permits = worker._permits if isinstance(worker, Worker) else worker._handlers._permits  # type: ignore[union-attr]
    assert permits is not None
    return permits


@pytest.mark.parametrize("loop", ["threads", "asyncio"])
def test_draining_and_stopping_do_not_wait_for_the_lost(lab: Lab, loop: str):
    trainer = live_trainer(lab, attempt_timeout_ms=300, max_attempts=1)
    trainer.enqueue(tasks(1, "bad"))
    with working(lab, loop, 2, "bad0") as one:
        wait_until(lambda: lab.stat("n_dead") == 1, "one hangs")
        wait_until(lambda: places_of(one).lost(one.hung[0]), "it is lost")
        if loop == "threads":
            assert one.worker is not None
            one.worker.drain()
            one.result()
        else:
            assert isinstance(one.worker, aio.Worker)
            one.worker._loop.call_soon_threadsafe(one.worker.drain)  # type: ignore[union-attr]
            wait_until(lambda: one.worker._handlers is None, "`run` has ended")  # type: ignore[union-attr]
    assert trainer.stats().sessions == 0


class Clock:
    """A clock that stands still."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def attempt_of(name: str) -> Attempt:
    return Attempt(f"{name}#0.1.r", "r", name, 0, None, 0, None, 1, 0)  # type: ignore[arg-type]


def places_for(concurrency: int, lease_ms: int = 60_000) -> tuple[Permits, Clock]:
    io: Any = None  # it makes no call
    clock, state = Clock(), WorkerState(io, "r", name="w")
    state.sessions["r"]._joined = type("Joined", (), {"session": "s", "lease_ms": lease_ms})()  # type: ignore[assignment]
    return Permits(state, concurrency, clock), clock


def test_an_event_loop_that_does_not_run_is_told_with_its_stack(
    lab: Lab, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    monkeypatch.setattr(loop_watch, "HUNG_AFTER_S", 0.3)
    lab.trainer(lease_ms=600).enqueue(tasks(1))
    lab.go_live()

    async def main() -> None:
        async with asyncio.timeout(60), aio.Worker(lab.url, lab.run) as worker:

            async def blocks(_: Attempt) -> str:
                wait_until(lambda: "has not run for" in caplog.text, "it is told")
                worker.drain()
                return "done"

            await worker.run(blocks)

    asyncio.run(main())
    assert "in blocks" in caplog.text
    assert caplog.text.count("the event loop of worker") == 1
    assert lab.stat("n_ready") == 1


def test_a_place_is_lost_some_time_after_its_attempt_was_taken_back():
    permits, clock = places_for(2)
    slow, fine = attempt_of("slow"), attempt_of("fine")
    permits.take(slow)
    permits.take(fine)
    assert (permits.room, permits.look()) == (0, [])
    slow.mark_cancelled("stale")
    clock.now = 100.0
    assert (permits.look(), permits.room) == ([slow], 0)
    clock.now += LOST_AFTER_S - 0.1
    assert (permits.look(), permits.room) == ([], 0)
    clock.now += 0.1
    assert (permits.look(), permits.room, permits.lost(slow.id)) == ([], 1, True)
    permits.give(slow)
    assert (permits.room, permits.lost(slow.id)) == (1, False)
    permits.give(fine)
    assert permits.room == 2


@pytest.mark.parametrize(("why", "at_once"), [("expired", True), ("stale", False), ("cancelled", False)])
def test_slow_handlers_have_hung_after_a_lease_and_those_past_their_time_at_once(why: str, at_once: bool):
    """Handlers that do not look at `cancelled` are common: a worker must not end because a policy became stale."""
    permits, clock = places_for(1)
    attempt = attempt_of("t")
    permits.take(attempt)
    attempt.mark_cancelled(why)
    permits.look()
    clock.now += LOST_AFTER_S
    permits.look()
    assert (permits.room, permits.is_idle) == (0, True)
    assert permits.are_lost is at_once
    clock.now += 60.0 - LOST_AFTER_S
    assert permits.are_lost
    permits.give(attempt)
    assert not permits.are_lost


def test_a_session_that_ran_out_says_nothing_of_its_handlers():
    """All attempts of a lost session are `expired`; that does not mean that their handlers hang."""
    permits, clock = places_for(1)
    attempt = attempt_of("t")
    permits.take(attempt)
    permits._state.sessions["r"].lost()
    attempt.mark_cancelled("expired")
    permits.look()
    clock.now += LOST_AFTER_S
    permits.look()
    assert (permits.lost(attempt.id), permits.are_lost) == (True, False)
