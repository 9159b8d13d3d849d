"""A checkpoint is beside the weights of its version: between delivery and advance the caller has to say so."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from broker import Trainer, aio
from broker.errors import BadArgument
from tests.conformance.lab import Lab, tasks


def a_trainer(lab: Lab, **options: int) -> Trainer:
    """Of a run whose tasks are all done."""
    trainer = lab.trainer(max_staleness=9, max_concurrent_rollouts=99, **options)
    trainer.enqueue(tasks(6))
    worker = lab.worker()
    for attempt in worker.claim(6):
        worker.submit(attempt, b"x")
    return trainer


def test_between_delivery_and_advance_a_checkpoint_is_refused_unless_the_weights_are_named(
    lab: Lab, tmp_path: Path
) -> None:
    trainer, path = a_trainer(lab), tmp_path / "broker.json"
    assert trainer.checkpoint(path).version == 0
    trainer.next_batch()
    for _ in range(2):
        with pytest.raises(BadArgument, match=r"batch of version 0 was handed out.* weights=0"):
            trainer.checkpoint(path)
        trainer.next_batch()  # the same batch again
    assert trainer.checkpoint(path, weights=0).version == 0
    trainer.advance()
    assert trainer.checkpoint(path).version == 1
    for wrong in (0, 2, "1"):
        with pytest.raises(BadArgument, match="weights"):
            trainer.checkpoint(path, weights=wrong)  # pyright: ignore[reportArgumentType]
    assert trainer.checkpoint(path, weights=1).version == 1


def test_a_batch_that_was_handed_out_before_the_advance_is_for_later_weights(lab: Lab, tmp_path: Path) -> None:
    """With prefetch the caller has the next batch already when it advances."""
    trainer, path = a_trainer(lab), tmp_path / "broker.json"
    trainer.next_batch(prefetch=True)
    trainer.next_batch(prefetch=True)
    trainer.advance()
    assert trainer.checkpoint(path).version == 1
    trainer.advance()
    assert trainer.checkpoint(path).version == 2


def test_a_trainer_that_was_opened_again_has_no_batch(lab: Lab, tmp_path: Path) -> None:
    a_trainer(lab).next_batch()
    assert lab.trainer(reopen=True).checkpoint(tmp_path / "broker.json").version == 0


def test_so_it_is_for_asyncio(lab: Lab, tmp_path: Path) -> None:
    a_trainer(lab)
    path = tmp_path / "broker.json"

    async def scenario() -> None:
        async with aio.Trainer(lab.url, lab.run, clock=lab.clock) as trainer:
            await trainer.next_batch()
            with pytest.raises(BadArgument, match="weights=0"):
                await trainer.checkpoint(path)
            assert (await trainer.checkpoint(path, weights=0)).version == 0
            await trainer.advance()
            assert (await trainer.checkpoint(path)).version == 1

    asyncio.run(scenario())
