"""G1, G7: what the trainer does after a call that ended without an answer; the server may have executed it, or not."""

import asyncio
import os
import signal
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from broker import RunConfig, Task, aio
from broker.errors import BadArgument, Early, Fenced, ServerUnavailable, TooBig
from broker.protocol import trainer as calls
from broker.protocol.trainer import NewTask
from broker.values.codec import encode
from broker.worker.signals import TerminationAsExit
from tests.conformance.clients import Unanswered, blocking, coroutine, interrupted, unanswered
from tests.conformance.lab import Lab, names_of, tasks
from tests.waiting import wait_until

HOW: list[Unanswered] = ["executed", "not sent", "only the call", "interrupted", "not begun"]


@pytest.mark.parametrize("how", HOW)
def test_an_advance_without_answer_is_made_once_whatever_comes_next(lab: Lab, how: Unanswered):
    """The trainer's loop goes on with the next batch, not with the one that it trained on already."""
    trainer, worker = lab.trainer(consumer_batch_size=1, max_staleness=1), lab.worker()
    trainer.enqueue(tasks(4))
    seen: list[str] = []
    for step in range(4):
        worker.submit(worker.claim()[0], step)
        seen += names_of(trainer.next_batch(timeout=5))
        with unanswered(trainer, how):
            trainer.advance()
    assert seen == ["t0", "t1", "t2", "t3"]
    assert trainer.advance() == trainer.version == trainer.stats().version == 4


def test_an_advance_of_asyncio_that_was_cancelled_is_made_once(lab: Lab):
    """The next batch is the next one."""

    async def main() -> list[str]:
        seen = list[str]()
        async with aio.Trainer(lab.url, lab.run, RunConfig(consumer_batch_size=1), clock=lab.clock) as trainer:
            await trainer.enqueue(tasks(3))
            worker = lab.worker()
            execute = trainer._transport.execute

            async def executed_and_cancelled(script_calls: Any, *_: Any) -> Any:
                await execute(script_calls)
                raise asyncio.CancelledError

            for step in range(3):
                worker.submit(worker.claim()[0], step)
                seen += names_of(await trainer.next_batch(timeout=5))
                with pytest.MonkeyPatch.context() as patch, pytest.raises(asyncio.CancelledError):
                    patch.setattr(trainer._transport, "execute", executed_and_cancelled)
                    await trainer.advance()
            assert await trainer.advance() == trainer.version == 3
        return seen

    assert asyncio.run(main()) == ["t0", "t1", "t2"]


@pytest.mark.parametrize("how", HOW)
@pytest.mark.parametrize("empty", [False, True])
def test_an_advance_without_answer_that_is_repeated_is_made_once(lab: Lab, how: Unanswered, empty: bool):
    """As the error says: repeating it is safe, and answers what the first one would have answered."""
    trainer, worker = lab.trainer(consumer_batch_size=1), lab.worker()
    trainer.enqueue(tasks(2))
    for step in range(2):
        if not empty:
            worker.submit(worker.claim()[0], step)
            trainer.next_batch(timeout=5)
        for _ in range(3):
            with unanswered(trainer, how):
                trainer.advance(b"blob", allow_empty=empty)
        assert trainer.advance(b"blob", allow_empty=empty) == trainer.stats().version == step + 1
    assert int(lab.command("HGET", lab.key("state"), "blob_seq")) == 2


def test_a_call_that_was_interrupted_behind_its_answer_keeps_its_number(lab: Lab, monkeypatch: pytest.MonkeyPatch):
    """The next call has the next number. With the same number it would get the first call's answer, and have no effect."""
    trainer = lab.trainer(consumer_batch_size=1)

    for i in range(2):
        with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
            patch.setattr(trainer._state.numbered._numbers, "settle", interrupted)
            trainer.enqueue(tasks(3))
        assert trainer.enqueue(Task(id=f"other{i}")).added == 1
    assert trainer.stats().pending == 5


def test_a_checkpoint_after_an_advance_without_answer_is_of_the_new_version(lab: Lab, tmp_path: Path):
    """The weights that it is saved beside are those of the step that was trained."""
    trainer, worker = lab.trainer(consumer_batch_size=1), lab.worker()
    trainer.enqueue(tasks(1))
    worker.submit(worker.claim()[0], 0)
    trainer.next_batch(timeout=5)
    with unanswered(trainer, "not sent"):
        trainer.advance()
    assert trainer.checkpoint(tmp_path / "c.json").version == trainer.version == 1


def test_an_advance_without_answer_of_a_trainer_that_was_replaced(lab: Lab):
    trainer = lab.trainer(consumer_batch_size=1)
    with unanswered(trainer, "executed"):
        trainer.advance(allow_empty=True)
    lab.trainer(reopen=True)
    with pytest.raises(Fenced):
        trainer.advance(allow_empty=True)


@pytest.mark.parametrize("how", ["executed", "not sent"])
def test_a_recovery_settles_an_advance_without_answer(lab: Lab, how: Unanswered):
    """After it, an advance is a new one."""
    trainer = lab.trainer(consumer_batch_size=1)
    with unanswered(trainer, how):
        trainer.advance(allow_empty=True)
    trainer.recover(version=1)
    assert trainer.version == 1
    assert trainer.advance(allow_empty=True) == 2


def test_a_recovery_that_was_interrupted_at_its_end_is_known(lab: Lab):
    """The run is at the version recovered to; the trainer's next batch is of that version, not of the one before."""
    trainer, worker = lab.trainer(consumer_batch_size=1), lab.worker()
    trainer.enqueue(tasks(3))
    for step in range(2):
        worker.submit(worker.claim()[0], step)
        trainer.next_batch(timeout=5)
        trainer.advance()
    execute = blocking(trainer._transport.io.execute)

    def interrupted_at_its_end(script_calls: Any, *_: Any) -> Any:
        if script_calls[0].script == "trim":
            raise KeyboardInterrupt
        return execute(script_calls)

    with pytest.MonkeyPatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(trainer._transport.io, "execute", coroutine(interrupted_at_its_end))
        trainer.recover(version=1)
    assert trainer.stats().version == 1
    attempts = worker.claim(3)
    worker.submit_many((attempt, attempt.task) for attempt in attempts)
    assert len(trainer.next_batch(timeout=5)) == 1
    assert trainer.advance() == 2


def test_a_batch_whose_delivery_was_interrupted_is_delivered_next(lab: Lab):
    """`next_batch` must not return the batch after it: the trainer would acknowledge a batch that it never saw."""
    trainer, worker = lab.trainer(consumer_batch_size=1, max_staleness=1), lab.worker()
    trainer.enqueue(tasks(4))
    seen: list[str] = []
    for step in range(4):
        worker.submit(worker.claim()[0], step)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(trainer, "_start_ahead", interrupted)
            with suppress(KeyboardInterrupt):
                trainer.next_batch(prefetch=True, timeout=5)
        seen += names_of(trainer.next_batch(timeout=5))
        trainer.advance()
    assert seen == ["t0", "t1", "t2", "t3"]


def test_an_advance_that_a_checkpoint_made_sure_of_is_not_made_again(lab: Lab, tmp_path: Path):
    """Repeated, it answers for the first; the batch that was formed ahead is still to come."""
    trainer, worker = lab.trainer(consumer_batch_size=1, max_staleness=1), lab.worker()
    trainer.enqueue(tasks(2))
    for step in range(2):
        worker.submit(worker.claim()[0], step)
    assert names_of(trainer.next_batch(prefetch=True, timeout=5)) == ["t0"]
    wait_until(lambda: trainer.stats().step_next == 2, "the next batch is formed")
    with unanswered(trainer, "executed"):
        trainer.advance()
    trainer.checkpoint(tmp_path / "c.json")
    assert trainer.advance() == trainer.stats().version == 1
    assert names_of(trainer.next_batch(prefetch=True, timeout=5)) == ["t1"]
    assert trainer.advance() == 2


def test_a_batch_that_was_not_delivered_is_not_acknowledged(lab: Lab):
    """It was formed ahead."""
    trainer, worker = lab.trainer(consumer_batch_size=1, max_staleness=1), lab.worker()
    trainer.enqueue(tasks(2))
    for step in range(2):
        worker.submit(worker.claim()[0], step)
    trainer.next_batch(prefetch=True, timeout=5)
    wait_until(lambda: 1 in trainer._state.digests, "the next batch is formed")
    assert trainer.advance() == 1
    with pytest.raises(Early):
        trainer.advance()


def test_what_cannot_be_sent_is_refused_with_the_server_away(lab: Lab):
    """Else this call would block every later call."""
    trainer = lab.trainer(consumer_batch_size=1)
    with pytest.MonkeyPatch.context() as patch, pytest.raises(BadArgument, match="cannot be sent"):
        patch.setattr(trainer._transport.io, "execute", coroutine(interrupted))
        trainer.discard(["t0"], "a byte of no text: \udcff")
    assert trainer.enqueue(tasks(1)).added == 1


def test_what_the_server_does_not_take_is_not_in_the_way_of_later_calls(lab: Lab):
    """It closes the connection, and what it refused has no number."""
    if not lab.server.kind.is_real:
        pytest.skip("fakeredis has no such limit")
    trainer = lab.trainer(consumer_batch_size=1)
    before = lab.command("CONFIG", "GET", "proto-max-bulk-len")[1]
    lab.command("CONFIG", "SET", "proto-max-bulk-len", 1024 * 1024)
    try:
        with pytest.raises(TooBig, match="proto-max-bulk-len"):
            trainer.enqueue(Task(id="large", payload=os.urandom(2_000_000)))
        assert trainer.enqueue(tasks(1)).added == 1
        with suppress(KeyboardInterrupt), pytest.MonkeyPatch.context() as patch:
            patch.setattr(trainer._transport.io, "execute", coroutine(interrupted))
            trainer.enqueue(tasks(1, "u"))
        with pytest.raises(TooBig):  # nor is one in front of it forgotten
            trainer.enqueue(Task(id="large", payload=os.urandom(2_000_000)))
        assert trainer.enqueue(tasks(1, "v")).added == 1
    finally:
        lab.command("CONFIG", "SET", "proto-max-bulk-len", before)
    assert sorted(lab.states()) == ["t0", "u0", "v0"]


def test_a_worker_whose_close_was_interrupted_is_closed_by_the_next(lab: Lab):
    """And its heartbeat has ended in any case."""
    trainer, worker = lab.trainer(consumer_batch_size=1), lab.worker()
    trainer.enqueue(tasks(1))
    worker.claim()
    execute = coroutine(interrupted)
    for place, name, by in (
        (worker, "stop", interrupted),
        (worker._heartbeat, "stop", interrupted),
        (worker._transport.io, "execute", execute),
    ):
        with pytest.MonkeyPatch.context() as patch, pytest.raises(KeyboardInterrupt):
            patch.setattr(place, name, by)
            worker.close()
        assert worker._heartbeat._stop.is_set()
    worker.close()
    assert (trainer.stats().running, trainer.stats().sessions) == (0, 0)


def test_what_came_with_a_payload_that_cannot_be_read_is_not_held_by_nobody(lab: Lab):
    """The `fail` call of the bad attempt gets no answer. The caller never sees the others, so the worker holds none."""
    trainer, worker = lab.raw_trainer(consumer_batch_size=3), lab.worker()
    trainer.send(calls.enqueue, [NewTask("good", encode(1)), NewTask("bad", b"\xc1")])
    execute = blocking(worker._transport.io.execute)

    def broken(script_calls: Any, *_: Any) -> Any:
        if script_calls[0].script == "fail":
            raise ServerUnavailable(url="", seconds=30, last="silence")
        return execute(script_calls)

    with pytest.MonkeyPatch.context() as patch, pytest.raises(ServerUnavailable):
        patch.setattr(worker._transport.io, "execute", coroutine(broken))
        worker.claim(2)
    assert worker.held == []


def test_sigterm_does_not_break_off_the_giving_back_that_it_asks_for():
    termination = TerminationAsExit()
    termination.install()
    with pytest.raises(SystemExit):
        signal.raise_signal(signal.SIGTERM)
    termination.hold_off()
    signal.raise_signal(signal.SIGTERM)
    with pytest.raises(SystemExit, match="143"):
        termination.remove()
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
