"""A `next_batch` that waits long logs the reason."""

import asyncio
import logging

import pytest

from broker import Trainer, aio
from broker.connections.sync import run_blocking
from broker.errors import WaitTimeout
from broker.trainer import batches, wait_log
from tests.conformance.lab import Lab, tasks

FLAVOURS = pytest.mark.parametrize("flavour", ["sync", "aio"])


@pytest.fixture(autouse=True)
def told_at_once(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    """Waits are told from their first look on."""
    monkeypatch.setattr(wait_log, "FIRST_AFTER_S", 0.0)
    monkeypatch.setattr(batches, "LOOK_AGAIN_S", 0.01)
    caplog.set_level(logging.INFO, "broker")


def waits(flavour: str, lab: Lab, trainer: Trainer) -> None:
    """A `next_batch` whose time is over before the batch is there."""
    if flavour == "sync":
        with pytest.raises(WaitTimeout):
            trainer.next_batch(timeout=0.05)
        return

    async def wait() -> None:
        async with aio.Trainer(lab.url, lab.run, clock=lab.clock) as other:
            with pytest.raises(WaitTimeout):
                await other.next_batch(timeout=0.05)

    asyncio.run(wait())


def told(caplog: pytest.LogCaptureFixture) -> tuple[int, str]:
    """The level and the words of the first line about a wait."""
    record = next(record for record in caplog.records if "waiting for" in record.getMessage())
    return record.levelno, record.getMessage()


@FLAVOURS
def test_it_says_that_no_worker_is_connected(lab: Lab, flavour: str, caplog: pytest.LogCaptureFixture):
    trainer = lab.trainer(consumer_batch_size=3)
    trainer.enqueue(tasks(3))
    waits(flavour, lab, trainer)
    level, words = told(caplog)
    assert level == logging.WARNING
    assert f"run {lab.run}, step 0: waiting for 3 of 3 tasks for " in words
    assert words.endswith(": no worker is connected.")


@FLAVOURS
def test_it_names_who_has_held_a_slot_longest(lab: Lab, flavour: str, caplog: pytest.LogCaptureFixture):
    trainer, slow, fast = lab.trainer(consumer_batch_size=3), lab.worker(name="w4"), lab.worker(name="w5")
    trainer.enqueue(tasks(3, "e1/"))
    (held,) = slow.claim(1)
    lab.pass_ms(20_000)
    one, _ = fast.claim(2)
    fast.submit(one, b"x")
    lab.pass_ms(11_000)
    waits(flavour, lab, trainer)
    level, words = told(caplog)
    assert level == logging.INFO
    assert "waiting for 2 of 3 tasks for " in words
    assert words.endswith(f": {held.task} on w4 for 31 s, and 1 slot more")


def test_a_batch_that_is_formed_ahead_is_not_waited_for(lab: Lab, caplog: pytest.LogCaptureFixture):
    trainer, worker = lab.trainer(max_staleness=1), lab.worker()
    trainer.enqueue(tasks(2))
    (attempt,) = worker.claim(1)
    worker.submit(attempt, b"x")
    trainer.next_batch(prefetch=True, timeout=20)
    assert trainer._ahead is not None
    with pytest.raises(TimeoutError):
        trainer._ahead[1].result(0.1)
    assert "waiting for" not in caplog.text


def test_it_is_told_at_growing_distances(lab: Lab, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture):
    monkeypatch.setattr(wait_log, "FIRST_AFTER_S", 30.0)
    trainer, now = lab.trainer(), 0.0
    wait = wait_log.WaitLog(trainer._state, 0, 1, lambda: now)
    told_at: list[float] = []
    while now <= 500:
        caplog.clear()
        run_blocking(wait.tell(0))
        if "waiting for" in caplog.text:
            told_at.append(now)
        now += 10
    assert told_at == [30, 90, 210, 450]


@FLAVOURS
def test_a_time_out_says_what_the_wait_was_for(lab: Lab, flavour: str):
    trainer = lab.trainer(consumer_batch_size=3)
    trainer.enqueue(tasks(3))
    if flavour == "sync":
        with pytest.raises(WaitTimeout) as caught:
            trainer.next_batch(timeout=wait_log.ASK_FROM_S)
        error = caught.value
    else:

        async def wait() -> WaitTimeout:
            async with aio.Trainer(lab.url, lab.run, clock=lab.clock) as other:
                with pytest.raises(WaitTimeout) as caught:
                    await other.next_batch(timeout=wait_log.ASK_FROM_S)
                return caught.value

        error = asyncio.run(wait())
    assert str(error).startswith("the batch of step 0 was not ready within 0.5 s: no worker is connected (")


def test_a_rank_that_waits_in_vain_is_told_why(lab: Lab):
    lab.trainer(consumer_batch_size=3).enqueue(tasks(3))
    rank = lab.trainer(attach=True)
    with pytest.raises(WaitTimeout, match="no worker is connected"):
        rank.read_batch(0, timeout=wait_log.ASK_FROM_S)


def test_a_poll_does_not_ask_for_the_reason(lab: Lab):
    trainer = lab.trainer(consumer_batch_size=3)
    trainer.enqueue(tasks(3))
    with pytest.raises(WaitTimeout) as caught:
        trainer.next_batch(timeout=0)
    assert "reason" not in caught.value.fields


def test_an_explanation_prints_as_words(lab: Lab):
    trainer = lab.trainer(consumer_batch_size=3)
    trainer.enqueue(tasks(3))
    told = str(trainer.explain()).splitlines()
    assert told[0] == f"run {lab.run}: version 0, next step 0"
    assert told[1] == "Is work going on? No: no worker is connected."
    assert told[2] == "Would a worker with the newest weights get a task now? Yes: 3 tasks may be started now."
