"""However a handler ends, its attempt ends at once: with a result or a verdict, or else with a counted failure."""

import asyncio
import logging
import os
import sys
import threading
from collections.abc import Awaitable, Callable, Generator
from contextlib import suppress
from typing import Any, NoReturn

import pytest

from broker import Attempt, Reject, Worker, aio
from broker.errors import ServerUnavailable, TooBig
from broker.operator import Operator
from broker.worker.handler_outcome import REASON_BYTES, judged, sendable, words_of
from tests.conformance.lab import Lab, tasks
from tests.threads import InThread
from tests.waiting import wait_until


class Panic(BaseException):
    """As pyo3 raises where Rust panics."""


class Mute(Exception):
    """Cannot be shown."""

    def __repr__(self) -> NoReturn:
        raise SystemExit("no")

    __str__ = __repr__


class MuteReject(Reject):
    """A verdict that cannot be shown."""

    def __str__(self) -> NoReturn:
        raise RuntimeError


class Unloadable:
    """A result whose encoding ends the process, if nobody minds."""

    def __array__(self, *_: Any, **__: Any) -> NoReturn:
        raise Panic("in its array")

    def __iter__(self) -> NoReturn:
        raise Panic("in its items")


class Never:
    """Can be awaited without a loop, in vain."""

    def __await__(self) -> Generator[None]:
        yield


class OddDict(dict[str, int]):
    """A result that cannot be looked at."""

    def __iter__(self) -> NoReturn:
        raise Panic("in its keys")

    values = items = keys = __iter__  # pyright: ignore[reportAssignmentType]


class Causeless(Exception):
    """Its cause cannot be asked for."""

    @property
    def __cause__(self) -> NoReturn:  # pyright: ignore[reportIncompatibleVariableOverride]
        raise SystemExit("no")


class Classless(Exception):
    """Not even its class can be asked for."""

    def __getattribute__(self, _name: str) -> NoReturn:
        raise SystemExit("no")


class _Nameless(type):
    def __getattribute__(cls, _name: str) -> NoReturn:
        raise SystemExit("no")


def nameless() -> Exception:
    """Nor can the name of its class. Pytest would ask a class of the module for it."""

    class Nameless(Exception, metaclass=_Nameless):
        pass

    return Nameless()


#: Long enough on a busy machine, seconds.
PATIENCE_S = 30.0

#: What a handler raises, and words of the reason.
RAISED: dict[str, tuple[Callable[[], BaseException], str]] = {
    "exit": (lambda: SystemExit("bad weights"), "SystemExit('bad weights')"),
    "interrupt": (KeyboardInterrupt, "KeyboardInterrupt()"),
    "cancelled": (asyncio.CancelledError, "CancelledError()"),
    "generator_exit": (GeneratorExit, "GeneratorExit()"),
    "stop_iteration": (lambda: StopAsyncIteration(1), "StopAsyncIteration(1)"),
    "panic": (lambda: Panic("in Rust"), "Panic('in Rust')"),
    "pytest": (lambda: pytest.fail.Exception("assert 0"), "assert 0"),
    "mute": (Mute, "Mute (its text cannot be shown)"),
    "huge": (lambda: ValueError("x" * 5_000_000), "5000014 characters"),
    "surrogates": (lambda: ValueError("\udc80" * 3000), "\\udc80"),
    "wide": (lambda: ValueError("\N{PILE OF POO}" * 3000), "\N{PILE OF POO}"),
    "unavailable": (lambda: ServerUnavailable(url="of its own", seconds=1, error="e"), "of its own"),
    "causeless": (Causeless, "Causeless()"),
    "classless": (Classless, "Classless()"),
    "nameless": (nameless, "Nameless()"),
    "group": (lambda: BaseExceptionGroup("two", [SystemExit(1), ValueError("v")]), "SystemExit(1)"),
}

#: Results that cannot be sent, and words of the reason.
UNSENDABLE: dict[str, tuple[Callable[[], Any], str]] = {
    "object": (object, "object"),
    "too_big": (lambda: b"x" * 2000, "1000 is the most"),
    "unloadable": (Unloadable, "Unloadable"),
    "odd_dict": (OddDict, "Panic('in its keys')"),
}


def work(lab: Lab, loop: str, handle: Callable[[Attempt], Any], *, dead: int) -> list[type[BaseException]]:
    """Workers, one after the other, until so many tasks are dead; what `run` raised of each that ended by itself."""
    lab.go_live()
    ended: list[type[BaseException]] = []

    def is_over() -> bool:
        return lab.stat("n_dead") == dead

    async def awaited(attempt: Attempt) -> Any:
        await asyncio.sleep(0)
        return handle(attempt)

    async def work_in_asyncio() -> None:
        async with asyncio.timeout(30), aio.Worker(lab.url, lab.run) as worker:
            working = asyncio.create_task(watched(worker))
            while not (working.done() or is_over()):
                await asyncio.sleep(0.01)
            worker.drain()
            await working
            assert worker.held == []

    async def watched(worker: aio.Worker) -> None:
        try:
            await worker.run(awaited, concurrency=2)
        except (SystemExit, KeyboardInterrupt) as error:  # out of a task it would end the loop, too
            ended.append(type(error))

    if loop == "asyncio":
        while not is_over():
            asyncio.run(work_in_asyncio())
        return ended
    with Worker(lab.url, lab.run) as worker:
        working = InThread(lambda: worker.run(handle, concurrency=2))
        wait_until(is_over, "all tasks are dead")
        worker.drain()
        working.result()
        assert worker.held == []
    return ended


def reasons(lab: Lab) -> dict[str, str]:
    """Why each dead task is."""
    with Operator(lab.url) as operator:
        return {finished.id: finished.reason for finished in operator.dead(lab.run)}


@pytest.mark.parametrize("loop", ["threads", "asyncio"])
@pytest.mark.parametrize("how", RAISED)
def test_whatever_a_handler_raises_is_a_counted_failure(
    lab: Lab, loop: str, how: str, caplog: pytest.LogCaptureFixture
):
    """The lease is an hour, so neither its end nor a heartbeat can be what ends the attempt."""
    caplog.set_level(logging.CRITICAL, "broker")  # parallel tests cannot pass such words on
    lab.trainer(max_attempts=2, retry_backoff_ms=1, lease_ms=3_600_000).enqueue(tasks(1))
    make, words = RAISED[how]
    calls: list[str] = []

    def handle(attempt: Attempt) -> NoReturn:
        calls.append(attempt.id)
        raise make()

    ended = work(lab, loop, handle, dead=1)
    assert len(calls) == len(set(calls)) == 2
    assert words in reasons(lab)["t0"]
    assert len(reasons(lab)["t0"].encode()) <= REASON_BYTES
    assert ended == ([type(make())] * 2 if loop == "asyncio" and how in {"exit", "interrupt"} else [])


@pytest.mark.parametrize("loop", ["threads", "asyncio"])
@pytest.mark.parametrize("how", UNSENDABLE)
def test_a_result_that_cannot_be_sent_is_not_tried_again(lab: Lab, loop: str, how: str):
    lab.trainer(max_attempts=5, lease_ms=3_600_000, max_result_bytes=1000).enqueue(tasks(1))
    make, words = UNSENDABLE[how]
    calls: list[str] = []

    def handle(attempt: Attempt) -> Any:
        calls.append(attempt.id)
        return make()

    assert work(lab, loop, handle, dead=1) == []
    assert len(calls) == 1
    assert words in reasons(lab)["t0"]


@pytest.mark.parametrize("loop", ["threads", "asyncio"])
def test_a_verdict_that_cannot_be_shown_is_one(lab: Lab, loop: str):
    lab.trainer(max_attempts=1).enqueue(tasks(2))

    def handle(attempt: Attempt) -> NoReturn:
        raise MuteReject if attempt.task == "t0" else ValueError

    work(lab, loop, handle, dead=1)
    assert lab.states() == {"t0": "rejected", "t1": "dead"}


def test_an_asyncio_handler_that_something_else_cancels_has_failed(lab: Lab):
    """Its own cancellation is no release; one of the worker's and one of the event loop are."""
    lab.trainer(max_attempts=2, retry_backoff_ms=1, lease_ms=3_600_000).enqueue(tasks(1))

    def handle(_: Attempt) -> None:
        task = asyncio.current_task()
        assert task is not None
        task.cancel()

    async def waits(attempt: Attempt) -> None:
        handle(attempt)
        await asyncio.sleep(60)

    async def main() -> None:
        async with aio.Worker(lab.url, lab.run) as worker:
            working = asyncio.create_task(worker.run(waits))
            await asyncio.to_thread(wait_until, lambda: lab.stat("n_dead") == 1, "both attempts failed")
            worker.stop()
            await working

    lab.go_live()
    asyncio.run(main())
    assert "CancelledError" in reasons(lab)["t0"]


class Clumsy(logging.Handler):
    """A logging handler that fails."""

    def emit(self, record: logging.LogRecord) -> NoReturn:
        raise Panic(record.msg)


@pytest.mark.parametrize("loop", ["threads", "asyncio"])
def test_an_attempt_whose_failure_cannot_be_logged_has_failed(lab: Lab, loop: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(threading, "excepthook", lambda _: None)
    lab.trainer(max_attempts=2, retry_backoff_ms=1, lease_ms=3_600_000).enqueue(tasks(1))
    calls: list[str] = []

    def handle(attempt: Attempt) -> NoReturn:
        calls.append(attempt.id)
        raise ValueError("bad")

    logger, handler = logging.getLogger("broker"), Clumsy(logging.WARNING)
    logger.addHandler(handler)
    try:
        assert work(lab, loop, handle, dead=1) == []
    finally:
        logger.removeHandler(handler)
    assert len(calls) == 2
    assert reasons(lab) == {"t0": "ValueError('bad')"}


async def _exits() -> None:
    await asyncio.sleep(0)
    raise SystemExit("bad weights")


async def _in_a_task() -> None:
    await asyncio.create_task(_exits())


async def _in_a_task_of_a_task() -> None:
    await asyncio.create_task(_in_a_task())


async def _gathered() -> None:
    await asyncio.gather(_exits(), asyncio.sleep(PATIENCE_S))


async def _in_a_group() -> None:
    async with asyncio.TaskGroup() as group:
        group.create_task(_exits())
        group.create_task(asyncio.sleep(PATIENCE_S))


async def _in_a_callback() -> None:
    asyncio.get_running_loop().call_soon(sys.exit, "bad weights")
    await asyncio.sleep(PATIENCE_S)


@pytest.mark.parametrize("bad", [_in_a_task, _in_a_task_of_a_task, _gathered, _in_a_group, _in_a_callback])
def test_an_exit_of_what_an_asyncio_handler_began_is_a_failure_of_its_attempt(
    lab: Lab, bad: Callable[[], Awaitable[None]]
):
    """The exit ends the event loop. Given back, the task would end one supervised worker after the other."""
    lab.trainer(max_attempts=2, retry_backoff_ms=1, lease_ms=3_600_000, max_concurrent_rollouts=3).enqueue(tasks(3))
    lab.go_live()

    async def main() -> None:
        async with asyncio.timeout(PATIENCE_S), aio.Worker(lab.url, lab.run) as worker:

            async def handle(attempt: Attempt) -> None:
                if attempt.task == "t0":
                    await bad()
                await asyncio.sleep(PATIENCE_S)

            await worker.run(handle, concurrency=3)

    for _ in range(2):
        with pytest.raises(SystemExit, match="bad weights"):
            asyncio.run(main())
    assert reasons(lab) == {"t0": "SystemExit('bad weights')"}
    assert [slot.tries for name in ("t1", "t2") for slot in lab.row(name).slots if slot.tries] == []


@pytest.mark.parametrize("way", ["iteration", "claim"])
@pytest.mark.parametrize("bad", [_in_a_task, _gathered, _in_a_callback])
def test_an_exit_of_what_a_block_began_is_a_failure_of_what_it_worked_on(
    lab: Lab, way: str, bad: Callable[[], Awaitable[None]]
):
    lab.trainer(max_attempts=2, retry_backoff_ms=1, lease_ms=3_600_000).enqueue(tasks(1))
    lab.go_live()

    async def main() -> None:
        async with asyncio.timeout(PATIENCE_S), aio.Worker(lab.url, lab.run) as worker:
            if way == "claim":
                await worker.claim(1, timeout=None)
                await bad()
            async for _ in worker:
                await bad()

    for _ in range(2):
        with pytest.raises(SystemExit, match="bad weights"):
            asyncio.run(main())
    assert reasons(lab) == {"t0": "SystemExit('bad weights')"}


def test_an_exit_that_is_no_attempts_gives_back_what_a_block_worked_on(lab: Lab):
    lab.trainer(max_attempts=1, lease_ms=3_600_000).enqueue(tasks(1))
    lab.go_live()

    async def watch() -> None:
        await working.wait()
        sys.exit("enough")

    async def main() -> None:
        watching = asyncio.create_task(watch())
        async with aio.Worker(lab.url, lab.run) as worker:
            async for _ in worker:
                working.set()
                await watching

    working = asyncio.Event()
    with pytest.raises(SystemExit, match="enough"):
        asyncio.run(main())
    assert lab.stat("n_dead") == 0
    assert [slot.tries for slot in lab.row("t0").slots] == [0]


@pytest.mark.parametrize("how", ["run is cancelled", "the loop ends"])
def test_handlers_that_end_with_their_loop_are_released(lab: Lab, how: str):
    trainer = lab.trainer(max_attempts=1, lease_ms=3_600_000)
    trainer.enqueue(tasks(1))
    lab.go_live()

    async def main() -> None:
        began = asyncio.Event()

        async def handle(_: Attempt) -> None:
            began.set()
            await asyncio.sleep(60)

        async def work() -> None:
            async with aio.Worker(lab.url, lab.run) as worker:
                await worker.run(handle)

        working = asyncio.create_task(work())
        await began.wait()
        if how == "run is cancelled":
            working.cancel()
            with suppress(asyncio.CancelledError):
                await working

    asyncio.run(main())
    assert lab.stat("n_dead") == 0
    assert lab.row("t0").slots[0].tries == 0


@pytest.mark.parametrize("way", ["iteration", "claim", "batches"])
@pytest.mark.parametrize("how", ["exit", "panic", "mute", "object", "cancelled", "generator_exit"])
def test_what_ends_the_block_of_a_worker_is_a_failure_of_what_it_worked_on(lab: Lab, way: str, how: str):
    """Ten supervised workers: each ends with the bad task, the third one ends that, the others do the rest."""
    lab.trainer(max_attempts=3, retry_backoff_ms=1, max_concurrent_rollouts=10, lease_ms=3_600_000).enqueue(tasks(5))
    make, words = RAISED[how] if how != "object" else UNSENDABLE[how]

    def do(worker: Worker, attempt: Attempt) -> None:
        result: Any = b"x"
        if attempt.task == "t0":
            result = make()
            if isinstance(result, BaseException):
                raise result
        worker.submit(attempt, result)

    def supervised() -> None:
        with Worker(lab.url, lab.run) as worker:
            worker.drain() if lab.stat("n_pending") + lab.stat("n_delayed") == 0 else None
            if way == "iteration":
                for attempt in worker:
                    do(worker, attempt)
                    if lab.stat("n_ready") == 4:
                        return
            while attempts := worker.claim(3, timeout=1) if way == "claim" else next(worker.batches(3), []):
                for attempt in attempts:
                    do(worker, attempt)
                if lab.stat("n_ready") == 4:
                    return

    lab.go_live()
    for _ in range(10):
        if lab.states()["t0"] == "dead":
            break
        with suppress(BaseException):
            InThread(supervised).result()
    assert lab.states()["t0"] == "dead"
    assert words in reasons(lab)["t0"]
    assert [slot.tries for name in ("t1", "t2", "t3", "t4") for slot in lab.row(name).slots if slot.tries] == []


@pytest.mark.parametrize("how", ["exit", "cancelled", "generator_exit"])
def test_the_block_of_an_asyncio_worker_does_the_same(lab: Lab, how: str):
    lab.trainer(max_attempts=2, retry_backoff_ms=1, lease_ms=3_600_000).enqueue(tasks(1))
    lab.go_live()

    async def main() -> None:
        async with aio.Worker(lab.url, lab.run) as worker:
            async for _ in worker:
                end()

    def end() -> NoReturn:
        raise make()

    make, words = RAISED[how]
    for _ in range(2):
        with pytest.raises((SystemExit, asyncio.CancelledError, GeneratorExit)):
            asyncio.run(main())
    assert reasons(lab) == {"t0": words}


@pytest.mark.parametrize("way", ["task", "time", "coroutine", "generator"])
def test_a_block_that_is_ended_from_outside_gives_its_work_back(lab: Lab, way: str):
    lab.trainer(max_attempts=1, lease_ms=3_600_000).enqueue(tasks(1))
    lab.go_live()

    async def work() -> None:
        async with aio.Worker(lab.url, lab.run) as worker:
            async for _ in worker:
                working.set()
                await asyncio.sleep(PATIENCE_S)

    async def main() -> None:
        if way == "time":
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(work(), 1)
            return
        running = asyncio.create_task(work())
        await working.wait()
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running

    def attempts() -> Generator[Attempt]:
        with Worker(lab.url, lab.run) as worker:
            yield from worker

    async def with_threads() -> None:
        with Worker(lab.url, lab.run) as worker:
            worker.claim()
            await Never()

    working = asyncio.Event()
    if way == "generator":
        closed: Any = attempts()
        next(closed)
        closed.close()
    elif way == "coroutine":
        closed = with_threads()
        closed.send(None)
        closed.close()
    else:
        asyncio.run(main())
    assert lab.stat("n_dead") == 0
    assert lab.row("t0").slots[0].tries == 0


@pytest.mark.parametrize("loop", ["threads", "asyncio"])
def test_a_result_too_large_for_the_server_fails_alone(lab: Lab, loop: str):
    """Others of the same call are accepted."""
    if not lab.server.kind.is_real:
        pytest.skip("fakeredis has no such limit")
    before = lab.command("CONFIG", "GET", "proto-max-bulk-len")[1]
    lab.command("CONFIG", "SET", "proto-max-bulk-len", 1024 * 1024)
    try:
        lab.trainer(consumer_batch_size=4, max_attempts=3, max_concurrent_rollouts=9, lease_ms=3_600_000).enqueue(
            tasks(4)
        )

        def handle(attempt: Attempt) -> bytes:
            return os.urandom(3_000_000 if attempt.task == "t2" else 300_000)

        assert work(lab, loop, handle, dead=1) == []
        assert [name for name, state in lab.states().items() if state not in {"ready", "pending"}] == ["t2"]
        assert lab.stat("total_failed") == 1
        assert reasons(lab)["t2"].startswith("TooBig: ")
    finally:
        lab.command("CONFIG", "SET", "proto-max-bulk-len", before)


def test_a_result_too_large_for_the_server_that_its_user_submits_fails_alone(lab: Lab):
    """Asyncio sends together what is submitted at the same time."""
    if not lab.server.kind.is_real:
        pytest.skip("fakeredis has no such limit")
    before = lab.command("CONFIG", "GET", "proto-max-bulk-len")[1]
    lab.command("CONFIG", "SET", "proto-max-bulk-len", 1024 * 1024)
    lab.trainer(consumer_batch_size=4, lease_ms=3_600_000).enqueue(tasks(4))

    async def main() -> list[Any]:
        async with aio.Worker(lab.url, lab.run) as worker:
            attempts = await worker.claim(4)
            sizes = {attempt.id: 3_000_000 if attempt.task == "t2" else 300_000 for attempt in attempts}
            submits = [worker.submit(attempt, os.urandom(sizes[attempt.id])) for attempt in attempts]
            return await asyncio.gather(*submits, return_exceptions=True)

    try:
        answers = asyncio.run(main())
    finally:
        lab.command("CONFIG", "SET", "proto-max-bulk-len", before)
    assert [getattr(answer, "accepted", type(answer)) for answer in answers] == [True, True, TooBig, True]


@pytest.mark.parametrize("text", ["x" * 2000, "\u00e4" * 1000, "", "a\udc80b"])
def test_a_reason_that_fits_is_sent_whole(text: str):
    assert sendable(text) == text.encode(errors="backslashreplace").decode()


@pytest.mark.parametrize("text", ["x" * 2001, "\u00e4" * 1001, "\N{PILE OF POO}" * 501, "\udc80" * 400])
def test_one_that_does_not_is_cut_between_characters(text: str):
    sent = sendable(text)
    assert REASON_BYTES - 10 <= len(sent.encode()) <= REASON_BYTES
    assert sent.endswith(f"... ({len(text)} characters)")


def test_an_exception_that_cannot_be_shown_is_called_by_its_type():
    class Meta(type):
        @property
        def __name__(cls) -> NoReturn:  # type: ignore[override]
            raise RuntimeError

    class Odd(Exception, metaclass=Meta):
        def __repr__(self) -> str:
            return 5  # type: ignore[return-value]  # pyright: ignore[reportReturnType]

    assert words_of(Odd()) == "Odd (its text cannot be shown)"


def test_a_handler_in_another_thread_is_never_told_to_end():
    """A signal is heard in the main thread only."""
    assert InThread(lambda: judged(KeyboardInterrupt(), "handler")).result().how == "failed"


@pytest.mark.parametrize("turns", range(12))
def test_an_asyncio_worker_whose_closing_was_cancelled_closes_again(lab: Lab, turns: int):
    """After any number of turns of the loop; whoever calls it again leaves nothing."""
    trainer = lab.trainer(consumer_batch_size=4, lease_ms=3_600_000, max_concurrent_rollouts=9)
    trainer.enqueue(tasks(3))
    lab.go_live()

    async def main() -> None:
        worker = await aio.Worker(lab.url, lab.run).open()
        began, ended = asyncio.Barrier(3), list[str]()

        async def handle(_: Attempt) -> None:
            await began.wait()
            try:
                await asyncio.sleep(60)
            finally:
                await asyncio.sleep(0.01)
                ended.append("handler")

        working = asyncio.create_task(worker.run(handle, concurrency=2))
        await began.wait()
        closing = asyncio.create_task(worker.close())
        for _ in range(turns):
            await asyncio.sleep(0.002 if turns % 2 else 0)
        closing.cancel()
        await asyncio.gather(closing, return_exceptions=True)
        await worker.close()
        await working
        assert ended == ["handler"] * 2

    asyncio.run(main())
    stats = trainer.stats()
    assert (stats.sessions, stats.running, stats.pending) == (0, 0, 3)


@pytest.mark.parametrize("turns", range(6))
def test_an_asyncio_trainer_whose_closing_was_cancelled_closes_again(lab: Lab, turns: int):
    lab.trainer(consumer_batch_size=1, max_staleness=2, max_concurrent_rollouts=9).enqueue(tasks(4))
    worker = lab.worker()
    for attempt in worker.claim(1):
        worker.submit(attempt, b"x")

    async def main() -> None:
        trainer = await aio.Trainer(lab.url, lab.run, clock=lab.clock).open()
        await trainer.next_batch(prefetch=True)
        closing = asyncio.create_task(trainer.close())
        for _ in range(turns):
            await asyncio.sleep(0)
        closing.cancel()
        await asyncio.gather(closing, return_exceptions=True)
        await trainer.close()

    asyncio.run(main())
