"""The handlers that `run` accepts, and its log of handlers that fail."""

import asyncio
import functools
import threading
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from broker import Attempt, Worker, aio
from broker.errors import BadArgument, ServerUnavailable
from broker.worker.permits import Permits
from tests.conformance.clients import blocking, coroutine
from tests.conformance.lab import Lab, tasks
from tests.threads import InThread
from tests.waiting import wait_until


async def awaited(attempt: Attempt) -> bytes:
    await asyncio.sleep(0)
    return attempt.task.encode()


def plain_awaited(attempt: Attempt) -> Coroutine[Any, Any, bytes]:
    return awaited(attempt)


def plain(_: Attempt) -> int:
    return 5


class Generates:
    async def __call__(self, attempt: Attempt) -> bytes:
        return await awaited(attempt)

    async def generate(self, attempt: Attempt) -> bytes:
        return await awaited(attempt)


ASYNC: dict[str, Callable[..., Coroutine[Any, Any, bytes]]] = {
    "function": awaited,
    "method": Generates().generate,
    "object": Generates(),
    "partial": functools.partial(awaited),
    "partial_of_an_object": functools.partial(Generates()),
}


def work_in_asyncio(lab: Lab, handler: Any, *, until_ready: int = 0, until_dead: int = 0) -> None:
    """Runs `aio.Worker.run` until it raises, or until the given numbers of tasks are ready and dead."""
    lab.go_live()
    wanted = (until_ready, until_dead)

    async def main() -> None:
        async with asyncio.timeout(20), aio.Worker(lab.url, lab.run) as worker:
            working = asyncio.create_task(worker.run(handler, concurrency=2))
            while not working.done():
                await asyncio.sleep(0.01)
                if any(wanted) and (lab.stat("n_ready"), lab.stat("n_dead")) == wanted:
                    worker.drain()
            await working

    asyncio.run(main())


@pytest.mark.parametrize("kind", ASYNC)
def test_a_threaded_worker_refuses_async_handlers_before_it_claims(lab: Lab, kind: str):
    trainer, worker = lab.trainer(consumer_batch_size=1), lab.worker()
    trainer.enqueue(tasks(1))
    with pytest.raises(BadArgument, match=r"async def handlers are for broker\.aio\.Worker"):
        worker.run(ASYNC[kind])
    assert (trainer.stats().pending, lab.row("t0").slots) == (1, ())


def test_a_threaded_worker_stops_at_a_result_to_be_awaited_and_no_task_loses_an_attempt(lab: Lab):
    trainer, worker = lab.trainer(consumer_batch_size=4, max_attempts=1), lab.worker()
    trainer.enqueue(tasks(4))
    with pytest.raises(BadArgument, match=r"async def handlers are for broker\.aio\.Worker"):
        InThread(lambda: worker.run(plain_awaited, concurrency=2)).result(20)
    stats = trainer.stats()
    assert (stats.pending, stats.running, stats.dead) == (4, 0, 0)
    assert worker.held == []


def test_a_handler_that_is_refused_at_the_last_moment_ends_a_worker_that_has_nothing_else_to_do(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
):
    """The handler ends between two looks of the loop, which must not wait without limit then."""
    lab.trainer(consumer_batch_size=1).enqueue(tasks(1))
    worker = lab.worker()
    looking, look = threading.Event(), Permits.look

    def look_until_it_ended(self: Permits) -> list[Attempt]:
        if not self.is_idle:
            looking.set()
            wait_until(lambda: self.is_idle, "the handler ended")
        return look(self)

    def ends_meanwhile(attempt: Attempt) -> Coroutine[Any, Any, bytes]:
        assert looking.wait(20)
        return awaited(attempt)

    monkeypatch.setattr(Permits, "look", look_until_it_ended)
    working = InThread(lambda: worker.run(ends_meanwhile, concurrency=2))
    try:
        with pytest.raises(BadArgument, match=r"async def handlers are for broker\.aio\.Worker"):
            working.result(10)
    finally:
        worker.stop()


@pytest.mark.parametrize("loop", ["threads", "asyncio"])
def test_what_cannot_be_called_is_refused_before_anything_is_claimed(lab: Lab, loop: str):
    trainer, worker = lab.trainer(consumer_batch_size=1), lab.worker()
    trainer.enqueue(tasks(1))
    with pytest.raises(BadArgument, match=r"handler must be .* not 5"):
        worker.run(5) if loop == "threads" else work_in_asyncio(lab, 5)  # type: ignore[arg-type]
    assert trainer.stats().pending == 1


@pytest.mark.parametrize("kind", [*ASYNC, "plain function"])
def test_an_asyncio_worker_takes_whatever_returns_an_awaitable(lab: Lab, kind: str):
    trainer = lab.trainer(consumer_batch_size=2)
    trainer.enqueue(tasks(2))
    work_in_asyncio(lab, (ASYNC | {"plain function": plain_awaited})[kind], until_ready=2)
    assert trainer.stats().ready == 2


def test_an_asyncio_worker_stops_at_a_result_that_cannot_be_awaited_and_no_task_loses_an_attempt(lab: Lab):
    trainer = lab.trainer(consumer_batch_size=4, max_attempts=1)
    trainer.enqueue(tasks(4))
    with pytest.raises(BadArgument, match=r"async def.*plain functions are for broker\.Worker"):
        work_in_asyncio(lab, plain)
    stats = trainer.stats()
    assert (stats.pending, stats.running, stats.dead) == (4, 0, 0)


def raises(_: Attempt) -> bytes:
    return {"y": b""}["x"]


async def raises_awaited(attempt: Attempt) -> bytes:
    await asyncio.sleep(0)
    return raises(attempt)


@pytest.mark.parametrize("loop", ["threads", "asyncio"])
def test_what_a_handler_raises_is_logged_with_the_place(lab: Lab, loop: str, caplog: pytest.LogCaptureFixture):
    lab.trainer(consumer_batch_size=1, max_attempts=1).enqueue(tasks(1))
    if loop == "asyncio":
        work_in_asyncio(lab, raises_awaited, until_dead=1)
    else:
        worker = lab.worker()
        working = InThread(lambda: worker.run(raises))
        wait_until(lambda: lab.stat("n_dead") == 1, "the attempt failed")
        worker.drain()
        working.result()
    (logged,) = [record for record in caplog.records if "failed: KeyError('x')" in record.message]
    assert logged.exc_info is not None
    assert 'return {"y": b""}["x"]' in caplog.text


def test_a_result_that_cannot_be_sent_is_logged_in_one_line(lab: Lab, caplog: pytest.LogCaptureFixture):
    async def odd(_: Attempt) -> object:
        await asyncio.sleep(0)
        return object()

    lab.trainer(consumer_batch_size=1, max_attempts=1).enqueue(tasks(1))
    work_in_asyncio(lab, odd, until_dead=1)
    assert "failed: CodecError" in caplog.text
    assert "Traceback" not in caplog.text


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
@pytest.mark.parametrize("loop", ["threads", "asyncio"])
@pytest.mark.parametrize("how", ["no answer", "ended by itself"])
def test_an_attempt_that_could_not_be_reported_is_given_to_others(
    lab: Lab, monkeypatch: pytest.MonkeyPatch, loop: str, how: str
):
    """Nobody works on the attempt. If the worker renewed it, the task would not be trained on while the worker lives."""
    lab.go_live()
    trainer = lab.trainer(consumer_batch_size=1, lease_ms=600)
    trainer.enqueue(tasks(1))
    calls: list[str] = []

    def failing(script_calls: Any) -> bool:
        return how == "no answer" and len(calls) == 1 and script_calls[0].script in {"submit", "fail"}

    def handler(attempt: Attempt) -> bytes:
        calls.append(attempt.id)
        if how != "no answer" and len(calls) == 1:
            raise SystemExit
        return b"x"

    async def awaited_handler(attempt: Attempt) -> bytes:
        calls.append(attempt.id)
        if how != "no answer" and len(calls) == 1:
            raise asyncio.CancelledError
        return b"x"

    if loop == "threads":
        with Worker(lab.url, lab.run) as worker:
            execute = blocking(worker._transport.io.execute)

            def broken(script_calls: Any, *_: Any) -> Any:
                if failing(script_calls):
                    raise ServerUnavailable(url="", seconds=30, last="silence")
                return execute(script_calls)

            monkeypatch.setattr(worker._transport.io, "execute", coroutine(broken))
            working = InThread(lambda: worker.run(handler))
            wait_until(lambda: lab.stat("n_ready") == 1, "it was done by the second attempt")
            worker.stop()
            working.result()
    else:

        async def work() -> None:
            async with aio.Worker(lab.url, lab.run) as worker:
                execute = worker._transport.execute

                async def broken(script_calls: Any, *_: Any) -> Any:
                    if failing(script_calls):
                        raise ServerUnavailable(url="", seconds=30, last="silence")
                    return await execute(script_calls)

                monkeypatch.setattr(worker._transport, "execute", broken)
                working = asyncio.create_task(worker.run(awaited_handler))
                await asyncio.to_thread(wait_until, lambda: lab.stat("n_ready") == 1, "the second attempt did it")
                worker.stop()
                await working

        asyncio.run(work())
    assert len(set(calls)) >= 2
