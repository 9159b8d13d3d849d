"""Clients that are given no URL use the one in the environment variable BROKER_URL."""

import asyncio

import pytest

from broker import BadUrl, Trainer, Worker, aio
from tests.conformance.lab import Lab, tasks


def test_clients_use_the_url_of_the_environment(lab: Lab, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("BROKER_URL", lab.url)
    with Trainer(run=lab.run, config=lab.config(), clock=lab.clock) as trainer:
        trainer.enqueue(tasks(2))
        with Worker(run=lab.run, name="w", clock=lab.clock) as worker:
            (attempt,) = worker.claim()
            worker.submit(attempt, b"x")
        assert [rollout.task for rollout in trainer.next_batch(timeout=5)] == ["t0"]


def test_clients_for_asyncio_use_it_too(lab: Lab, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("BROKER_URL", lab.url)

    async def train() -> None:
        async with aio.Trainer(run=lab.run, config=lab.config(), clock=lab.clock) as trainer:
            await trainer.enqueue(tasks(1))
            async with aio.Worker(run=lab.run, name="w", clock=lab.clock) as worker:
                (attempt,) = await worker.claim()
                await worker.submit(attempt, b"x")
            assert len(await trainer.next_batch(timeout=5)) == 1

    asyncio.run(train())


@pytest.mark.parametrize("client", [Trainer, Worker, aio.Trainer, aio.Worker])
@pytest.mark.parametrize("variable", [None, ""])
def test_without_both_the_error_names_the_variable(client: type, variable: str | None, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv("BROKER_URL", raising=False)
    if variable is not None:
        monkeypatch.setenv("BROKER_URL", variable)
    for given in ({}, {"url": None}):
        with pytest.raises(BadUrl, match="no URL was given, and BROKER_URL is not set"):
            client(run="math-7b", **given)
