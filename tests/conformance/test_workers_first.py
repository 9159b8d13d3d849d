"""Workers may be started before the trainer has created their run, and outlive a run that vanishes."""

import asyncio
import logging
import math
from collections.abc import Callable, Generator
from contextlib import suppress

import pytest

from broker import RunConfig, Task, Trainer, Worker, aio
from broker.errors import BadArgument, NoRun
from broker.operator import Operator
from broker.worker.missing_run import TELL_EVERY_S, MissingRun
from tests.servers import ServerUnderTest
from tests.threads import InThread
from tests.waiting import wait_until

#: Longer than any test.
LONG_S = 600.0
FLAVOURS = pytest.mark.parametrize("flavour", ["sync", "aio"])


def create(url: str, run: str) -> None:
    """A run with one task."""
    with Trainer(url, run, RunConfig(consumer_batch_size=1)) as trainer:
        trainer.enqueue(Task(id=f"{run}0", payload=b"x"))


def claims_one(flavour: str, url: str, runs: str | list[str], wait_for_run_s: float | None, then: Callable[[], object]):
    """Opens a worker that waits for its runs, calls `then`, and claims. Returns the task that the worker gets."""
    if flavour == "sync":
        with Worker(url, runs, wait_for_run_s=wait_for_run_s) as worker:
            then()
            return [attempt.task for attempt in worker.claim(1, timeout=20)]

    async def claims() -> list[str]:
        async with aio.Worker(url, runs, wait_for_run_s=wait_for_run_s) as worker:
            await asyncio.to_thread(then)
            return [attempt.task for attempt in await worker.claim(1, timeout=20)]

    return asyncio.run(claims())


def nothing() -> None:
    """Is done between opening and claim."""


@pytest.fixture
def missing(server: ServerUnderTest, run: str) -> Generator[str]:
    """Name of a run that is not there; the test may create that run, and one of that name with `2` at its end."""
    yield run
    with Operator(server.url) as operator:
        for name in (run, f"{run}2"):
            with suppress(NoRun):
                operator.purge(name)


@FLAVOURS
def test_a_worker_waits_for_its_run(
    server: ServerUnderTest, missing: str, flavour: str, caplog: pytest.LogCaptureFixture
):
    claiming = InThread(lambda: claims_one(flavour, server.url, missing, LONG_S, nothing))
    wait_until(lambda: "waiting for the run to be created" in caplog.text, "the log says what it waits for")
    create(server.url, missing)
    assert claiming.result() == [f"{missing}0"]
    (record,) = [record for record in caplog.records if "waiting for the run" in record.getMessage()]
    assert record.levelno == logging.WARNING
    assert f"no run {missing} " in record.getMessage()


@FLAVOURS
@pytest.mark.parametrize("wait_for_run_s", [None, 0, 0.05])
def test_a_run_that_does_not_come_is_an_error(
    server: ServerUnderTest, missing: str, flavour: str, wait_for_run_s: float | None
):
    with pytest.raises(NoRun):
        claims_one(flavour, server.url, missing, wait_for_run_s, nothing)


@FLAVOURS
def test_the_runs_that_are_there_are_served_meanwhile(server: ServerUnderTest, missing: str, flavour: str):
    create(server.url, f"{missing}2")
    assert claims_one(flavour, server.url, [missing, f"{missing}2"], LONG_S, nothing) == [f"{missing}20"]


@FLAVOURS
def test_a_run_that_is_created_later_is_served_then(server: ServerUnderTest, missing: str, flavour: str):
    create(server.url, f"{missing}2")

    def then() -> None:
        create(server.url, missing)

    assert claims_one(flavour, server.url, [missing, f"{missing}2"], LONG_S, then) == [f"{missing}0"]


@FLAVOURS
@pytest.mark.parametrize("wait_for_run_s", [0, 0.05])
@pytest.mark.parametrize("preferred", [True, False], ids=["preferred", "second"])
def test_a_run_that_does_not_come_in_time_takes_nothing_from_one_that_is_there(
    server: ServerUnderTest,
    missing: str,
    flavour: str,
    wait_for_run_s: float,
    preferred: bool,
    caplog: pytest.LogCaptureFixture,
):
    there = f"{missing}2"
    create(server.url, there)
    runs = [missing, there] if preferred else [there, missing]

    def claimed(claims: int) -> list[list[str]]:
        """What each of some claims brings; the missing run is created before the last one."""
        if flavour == "sync":
            with Worker(server.url, runs, wait_for_run_s=wait_for_run_s) as worker:
                brought = [worker.claim(1, timeout=0.1) for _ in range(claims)]
                create(server.url, missing)
                return [[attempt.task for attempt in batch] for batch in [*brought, worker.claim(1, timeout=20)]]

        async def awaited() -> list[list[str]]:
            async with aio.Worker(server.url, runs, wait_for_run_s=wait_for_run_s) as worker:
                brought = [await worker.claim(1, timeout=0.1) for _ in range(claims)]
                await asyncio.to_thread(create, server.url, missing)
                return [[attempt.task for attempt in batch] for batch in [*brought, await worker.claim(1, timeout=20)]]

        return asyncio.run(awaited())

    assert claimed(4) == [[f"{there}0"], [], [], [], [f"{missing}0"]]
    assert caplog.text.count("goes on with its other runs, and serves this one if it comes after all") == 1
    assert f"no run {missing} " in caplog.text


@FLAVOURS
def test_where_no_run_comes_in_time_it_is_an_error(server: ServerUnderTest, missing: str, flavour: str):
    with pytest.raises(NoRun):
        claims_one(flavour, server.url, [missing, f"{missing}2"], 0.05, nothing)


@FLAVOURS
def test_a_worker_whose_last_run_vanishes_waits_for_it_once_more(server: ServerUnderTest, missing: str, flavour: str):
    """None of the runs exists, and the worker has waited for each."""
    there = f"{missing}2"
    create(server.url, there)

    def vanish() -> None:
        with Operator(server.url) as operator:
            operator.purge(there)

    with pytest.raises(NoRun):
        claims_one(flavour, server.url, [missing, there], 0.05, vanish)


@FLAVOURS
@pytest.mark.parametrize(("wait_for_run_s", "ends"), [(0.05, True), (None, False), (LONG_S, False)])
def test_a_run_that_vanished_is_waited_for(
    server: ServerUnderTest,
    missing: str,
    flavour: str,
    wait_for_run_s: float | None,
    ends: bool,
    caplog: pytest.LogCaptureFixture,
):
    create(server.url, missing)

    def vanish() -> None:
        with Operator(server.url) as operator:
            operator.purge(missing)

    if ends:
        with pytest.raises(NoRun):
            claims_one(flavour, server.url, missing, wait_for_run_s, vanish)
        return
    claiming = InThread(lambda: claims_one(flavour, server.url, missing, wait_for_run_s, vanish))
    wait_until(lambda: "waiting for the run to come back" in caplog.text, "the log says what it waits for")
    create(server.url, missing)
    assert claiming.result() == [f"{missing}0"]


@pytest.mark.parametrize("given", [-1, "long"])
def test_a_wait_is_a_number_of_seconds(server: ServerUnderTest, given: float):
    with pytest.raises(BadArgument, match="wait_for_run_s"):
        Worker(server.url, "r", wait_for_run_s=given)


@pytest.mark.parametrize("patience_s", [None, math.inf])
def test_who_waits_for_ever_names_no_time(patience_s: float | None, caplog: pytest.LogCaptureFixture):
    MissingRun("w", patience_s).missed(NoRun(run="r"))
    assert "waiting for the run to be created: " in caplog.text


def test_a_wait_is_told_once_a_minute_until_the_patience_is_over(caplog: pytest.LogCaptureFixture):
    now = 100.0
    run, error = MissingRun("w", 3 * TELL_EVERY_S, lambda: now), NoRun(run="r")

    def told() -> int:
        return caplog.text.count("worker w is waiting")

    run.missed(error)
    now += TELL_EVERY_S - 1
    run.missed(error)
    assert (told(), run.left_s) == (1, 2 * TELL_EVERY_S + 1)
    now += 1
    run.missed(error)
    assert told() == 2
    now += 2 * TELL_EVERY_S
    for _ in range(2):  # whoever asks again hears it again
        with pytest.raises(NoRun):
            run.missed(error)
    for _ in range(2):  # another run has work
        run.missed(error, has_others=True)
    assert (told(), caplog.text.count("goes on with its other runs"), run.left_s) == (2, 1, None)
    run.found()
    assert run.left_s is None
    run.missed(error)
    assert told() == 3
