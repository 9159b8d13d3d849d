"""Hooks of the user's: awaited by the asyncio clients, and refused by the synchronous ones where that would be needed."""

import asyncio
import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from broker import BadArgument, Policy, Rollout, Trainer, Worker, aio
from broker.operator import Operator
from tests.conformance.lab import Lab, run_one, tasks


async def an_async_hook(*_: Any, **__: Any) -> Any:
    """Whatever it is given as."""


class AsyncCall:
    """An object that is called as an async function is."""

    async def __call__(self, *_: Any) -> Any:
        """Whatever it is given as."""


HOOKS = {
    "async def": an_async_hook,
    "partial": functools.partial(an_async_hook, 1),
    "object": AsyncCall(),
    "no function": 3,
}


@pytest.mark.parametrize("hook", HOOKS.values(), ids=HOOKS)
def test_a_synchronous_client_refuses_an_async_hook_when_it_is_given(lab: Lab, tmp_path: Path, hook: Any):
    """An `async def` filter would accept every rollout, because a coroutine is true."""
    trainer, path = lab.trainer(), tmp_path / "broker.json"
    trainer.enqueue(tasks(1))
    operator = Operator(lab.url)
    given: dict[str, list[Callable[[], Any]]] = {
        "accept": [lambda: trainer.next_batch(1, accept=hook)],
        "progress": [
            lambda: trainer.checkpoint(path, progress=hook),
            lambda: trainer.recover(version=0, progress=hook),
            lambda: operator.checkpoint(lab.run, path, progress=hook),
            lambda: operator.audit(lab.run, deep=True, progress=hook),
            lambda: operator.recover(lab.run, version=0, progress=hook),
            lambda: operator.purge(lab.run, hook),
        ],
        "clock": [
            lambda: Trainer(lab.url, lab.run, clock=hook),
            lambda: Worker(lab.url, lab.run, clock=hook),
            lambda: aio.Trainer(lab.url, lab.run, clock=hook),
            lambda: aio.Worker(lab.url, lab.run, clock=hook),
        ],
        "on_weights_stale": [lambda: Worker(lab.url, lab.run, on_weights_stale=hook)],
        "load_weights": [lambda: Worker(lab.url, lab.run, load_weights=hook)],
    }
    epoch = trainer.epoch
    for name, calls in given.items():
        for call in calls:
            with pytest.raises(BadArgument, match=f"^{name} "):
                call()
    operator.close()
    assert not path.exists()
    assert (trainer.stats().epoch, trainer.stats().pending) == (epoch, 1)


def test_what_turns_out_to_be_async_only_when_it_is_called_is_refused_then(lab: Lab):
    trainer, worker = lab.trainer(), lab.worker()
    trainer.enqueue(tasks(1))
    run_one(worker)

    def later(rollout: Rollout) -> Any:
        return an_async_hook(rollout)

    with pytest.raises(BadArgument, match=r"^accept "):
        trainer.next_batch(1, accept=later)
    assert len(trainer.next_batch(1, accept=lambda _: True)) == 1


def test_an_asyncio_trainer_awaits_its_filter_and_its_progress(lab: Lab, tmp_path: Path):
    told: list[tuple[int, int]] = []

    async def told_later(done: int, total: int) -> None:
        await asyncio.sleep(0)
        told.append((done, total))

    async def accept(rollout: Any) -> bool:
        await asyncio.sleep(0)
        return rollout.task != "t0"

    async def scenario() -> None:
        async with aio.Trainer(lab.url, lab.run, clock=lab.clock) as trainer:
            assert [rollout.task for rollout in await trainer.next_batch(1, accept=accept)] == ["t1"]
            await trainer.advance()
            path = tmp_path / "broker.json"
            await trainer.checkpoint(path, progress=told_later)
            assert told
            told.clear()
            await trainer.recover(path, progress=told_later)
            assert told

    trainer, worker = lab.trainer(max_concurrent_rollouts=9, max_staleness=9), lab.worker()
    trainer.enqueue(tasks(3))
    run_one(worker), run_one(worker)
    asyncio.run(scenario())


def test_an_asyncio_worker_awaits_for_newer_weights(lab: Lab):
    trainer = lab.trainer(max_staleness=0)
    trainer.enqueue(tasks(1))
    old = Policy(version=0, epoch=trainer.epoch)
    trainer.advance(b"weights", allow_empty=True)

    async def load(policy: Policy, blob: bytes | None) -> Policy:
        await asyncio.sleep(0)
        assert blob == b"weights"
        return policy

    async def scenario() -> None:
        async with aio.Worker(
            lab.url, lab.run, policy=old, on_weights_stale=load, clock=lab.clock, heartbeat=False
        ) as worker:
            (attempt,) = await worker.claim(1, 20)
            assert attempt.version == 1
            assert (await worker.submit(attempt, b"x")).accepted

    asyncio.run(scenario())
