"""Checkpoint and recovery of the asyncio trainer mean what those of the synchronous one mean."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from broker import Trainer, aio
from broker.errors import CheckpointError, Fenced
from tests.conformance.lab import Lab, names_of, tasks
from tests.recovery.frozen import POINTS, freeze_at
from tests.recovery.story import judge_once, serve, surviving, train, train_to_the_end


def test_either_client_recovers_what_the_other_saved(lab: Lab, tmp_path: Path):
    trainer, worker = lab.trainer(max_staleness=2, max_concurrent_rollouts=3), lab.worker()
    trainer.enqueue(tasks(12), cursor=12)
    history = dict(enumerate(train(trainer, worker, 2)))

    async def save_and_go_on() -> None:
        async with aio.Trainer(lab.url, lab.run, clock=lab.clock) as other:
            made = await other.checkpoint(tmp_path / "two", full=True)
            assert (made.version, made.cursor) == (2, 12)
            serve(worker)
            await other.next_batch(timeout=1)
            assert await other.advance() == 3
            serve(worker)
            await other.next_batch(timeout=1)
            said = await other.recover(tmp_path / "two", dry_run=True)
            assert (said.version_from, said.version_to, other.version) == (3, 2, 3)
            report = await other.recover(tmp_path / "two", in_flight="requeue")
            assert (report.version_to, other.version, other.cursor) == (2, 2, 12)
            history[2] = names_of(await other.next_batch(timeout=1))
            await other.advance()
            await other.checkpoint(tmp_path / "three")

    asyncio.run(save_and_go_on())
    with pytest.raises(Fenced):
        trainer.advance(allow_empty=True)
    train(lab.trainer(reopen=True), worker, 2)
    successor = lab.trainer(reopen=True)
    successor.recover(tmp_path / "three")
    judge_once(surviving(history, 3) | train_to_the_end(lab, successor, worker), [f"t{i}" for i in range(12)])


def test_a_batch_prefetched_before_a_recovery_is_not_delivered_after_it_either(lab: Lab):
    """As for the synchronous trainer (R6)."""
    trainer, worker = lab.trainer(max_staleness=2, max_concurrent_rollouts=2), lab.worker()
    trainer.enqueue(tasks(8))
    train(trainer, worker, 2)
    serve(worker)
    lost = {attempt for name in lab.states() for attempt in lab.attempts_of(name)}
    history: dict[int, list[str]] = {}

    async def recover() -> None:
        async with aio.Trainer(lab.url, lab.run, clock=lab.clock) as other:
            await other.next_batch(prefetch=True, timeout=1)
            assert other._ahead is not None
            await asyncio.wait([other._ahead[1]], timeout=5)
            await other.recover(version=0)
            for _ in range(4):
                serve(worker)
                batch = await other.next_batch(timeout=1)
                assert not [s for r in batch for s in r.samples if s.version > 0 and s.attempt_id in lost]
                history[other.version] = names_of(batch)
                await other.advance()

    asyncio.run(recover())
    judge_once(history | train_to_the_end(lab, lab.trainer(reopen=True), worker), [f"t{i}" for i in range(8)])


def test_a_recovery_beside_a_prefetch_that_waits_comes_through(lab: Lab):
    """The prefetch has nothing to take yet; its calls and those of the recovery go through one channel."""
    trainer, worker = lab.trainer(max_staleness=1, max_concurrent_rollouts=1), lab.worker()
    trainer.enqueue(tasks(6))
    serve(worker, 1)

    async def recover() -> None:
        async with aio.Trainer(lab.url, lab.run, clock=lab.clock) as other:
            await other.next_batch(prefetch=True, timeout=1)
            for _ in range(20):
                report = await other.recover(version=0)
                assert report.version_to == 0
                serve(worker, 1)
                await other.next_batch(prefetch=True, timeout=1)

    asyncio.run(recover())
    judge_once(train_to_the_end(lab, lab.trainer(reopen=True), worker), [f"t{i}" for i in range(6)])


def test_a_cancelled_recovery_is_run_again(lab: Lab, tmp_path: Path):
    """Cancelled after every possible number of turns of the event loop."""
    trainer, worker = lab.trainer(max_staleness=1), lab.worker()
    trainer.enqueue(tasks(10))
    history = dict(enumerate(train(trainer, worker, 2)))
    trainer.checkpoint(tmp_path / "two")
    train(trainer, worker, 2)

    async def recover(turns: int) -> bool:
        async with aio.Trainer(lab.url, lab.run, clock=lab.clock) as other:
            task = asyncio.create_task(other.recover(tmp_path / "two"))
            for _ in range(turns):
                await asyncio.sleep(0)
            task.cancel()
            await asyncio.wait([task])
            await other.recover(tmp_path / "two")
            return task.cancelled()

    outcomes = [asyncio.run(recover(turns)) for turns in (1, 3, 6, 10, 20, 40)]
    assert outcomes[0]
    successor: Trainer = lab.trainer(reopen=True)
    judge_once(surviving(history, 2) | train_to_the_end(lab, successor, worker), [f"t{i}" for i in range(10)])


def test_a_bad_file_changes_nothing(lab: Lab, tmp_path: Path):
    trainer = lab.trainer()
    trainer.enqueue(tasks(2))
    (tmp_path / "file").write_text("{}")

    async def recover() -> None:
        async with aio.Trainer(lab.url, lab.run, clock=lab.clock) as other:
            before = lab.dump()
            for options in ({}, {"dry_run": True}):
                with pytest.raises(CheckpointError):
                    await other.recover(tmp_path / "file", **options)
            with pytest.raises(CheckpointError):
                await other.checkpoint(tmp_path / "file" / "below")
            assert lab.dump() == before

    asyncio.run(recover())


@pytest.mark.parametrize("point", POINTS)
def test_an_asyncio_trainer_frozen_in_its_checkpoint_hits_nothing_of_its_successors(
    lab: Lab, tmp_path: Path, point: str
):
    """As for the synchronous trainer; the successor is one of those."""
    path = tmp_path / "broker.json"
    trainer, worker = lab.trainer(max_staleness=2, max_concurrent_rollouts=4), lab.worker()
    trainer.enqueue(tasks(12))
    history = dict(enumerate(train(trainer, worker, 2)))
    trainer.checkpoint(path)
    history |= dict(enumerate(train(trainer, worker, 2), 2))
    newest: list[Path] = []

    def succeed() -> None:
        successor = lab.trainer(reopen=True)
        version = successor.recover(path).version_to
        trained = surviving(history, version) | {version: train(successor, worker)[0]}
        history.clear()
        history.update(trained)
        made = successor.checkpoint(path, full=True)
        assert made.path is not None
        newest.append(made.path)

    async def freeze() -> None:
        async with aio.Trainer(lab.url, lab.run, clock=lab.clock) as frozen:
            with freeze_at(point, succeed):
                try:
                    await frozen.checkpoint(path, full=True)
                except Fenced:
                    return
            assert point in ("before the link", "before the link is in its place", "before the deletion")

    asyncio.run(freeze())
    third = lab.trainer(reopen=True)
    assert third.recover(path).source == str(newest[0])
    judge_once(history | train_to_the_end(lab, third, worker), [f"t{i}" for i in range(12)])
