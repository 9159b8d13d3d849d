"""How a gateway claims for requests that come together."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import pytest

pytest.importorskip("starlette", reason="the extra `gateway` is not installed")
pytest.importorskip("uvicorn", reason="the extra `gateway` is not installed")

from broker import RunConfig, Task, Trainer
from broker.connections import AsyncTransport
from broker.integrations.agent_lightning.gateway import Gateway

RUN = "run"


def scenario(url: str, tasks: int, body: Callable[[Gateway], Awaitable[Any]]) -> Any:
    """Runs a test on a gateway of a run with some tasks, `t0` to `t9`."""
    config = RunConfig(consumer_batch_size=1, max_staleness=None, max_concurrent_rollouts=100)

    async def run() -> Any:
        async with Gateway(url, RUN) as gateway:
            await gateway.next_task("first")  # the session begins
            async with asyncio.timeout(20):
                return await body(gateway)

    with Trainer(url, RUN, config) as trainer:
        trainer.enqueue(Task(id=name, payload=name) for name in ("first", *(f"t{i}" for i in range(tasks))))
        return asyncio.run(run())


@pytest.fixture
def scripts(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The scripts that were called."""
    called: list[str] = []
    execute = AsyncTransport.execute

    async def noting(self: AsyncTransport, calls: Sequence[Any], *rest: Any) -> Any:
        called.extend(call.script for call in calls)
        return await execute(self, calls, *rest)

    monkeypatch.setattr(AsyncTransport, "execute", noting)
    return called


def test_requests_that_come_together_share_a_claim(url: str, scripts: list[str]) -> None:
    async def asked(gateway: Gateway) -> list[str | None]:
        scripts.clear()
        given = await asyncio.gather(*(gateway.next_task(f"c{i}") for i in range(9)))
        return [task and task.rollout_id for task in given]

    assert scenario(url, 6, asked) == [*(f"t{i}" for i in range(6)), None, None, None]
    assert scripts.count("claim") == 1


def test_a_task_whose_request_is_given_up_while_it_is_claimed_goes_to_another(url: str) -> None:
    async def asked(gateway: Gateway) -> list[str]:
        one = asyncio.create_task(gateway.next_task("one"))
        other = asyncio.create_task(gateway.next_task("other"))
        while gateway._claims._waiting or gateway._claims._claiming is None:  # pyright: ignore[reportPrivateUsage]
            await asyncio.sleep(0)
        one.cancel()
        given = [await other, None]
        while given[1] is None:
            given[1] = await gateway.next_task("third")
        return [task.rollout_id for task in given if task is not None]

    assert sorted(scenario(url, 2, asked)) == ["t0", "t1"]


def test_a_server_without_the_run_is_told_to_all_that_wait(url: str) -> None:
    async def asked(gateway: Gateway) -> list[Any]:
        await gateway._transport.command("FLUSHALL")  # pyright: ignore[reportPrivateUsage]
        return await asyncio.gather(*(gateway.next_task("c") for _ in range(3)))

    assert scenario(url, 1, asked) == [None, None, None]
