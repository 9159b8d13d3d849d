"""How many exchanges with the server a request takes: with one client, each is a round trip that it waits for."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Sequence
from typing import Any

import pytest

pytest.importorskip("starlette", reason="the extra `gateway` is not installed")
pytest.importorskip("uvicorn", reason="the extra `gateway` is not installed")
pytest.importorskip("httpx", reason="the extra `gateway` is not installed")

from broker.connections.server import Pool
from broker.integrations.agent_lightning_1.gateway import Gateway
from broker.integrations.agent_lightning_1.messages import (
    EventCreate,
    EventsQuery,
    RolloutCreate,
    RolloutState,
    StatusPatch,
)
from broker.integrations.agent_lightning_1.shares import Who
from tests.integrations.agent_lightning_1.serving import RUN

BOTH = frozenset({RolloutState.QUEUING, RolloutState.RUNNING})


def test_a_request_takes_few_exchanges(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    counted = 0
    exchange = Pool.exchange

    async def counting(self: Pool, commands: Sequence[Any], *rest: Any) -> Any:
        nonlocal counted
        counted += 1
        return await exchange(self, commands, *rest)

    async def took(request: Awaitable[Any]) -> int:
        before = counted
        await request
        return counted - before

    async def scenario() -> dict[str, int]:
        async with Gateway(url, RUN) as gateway:
            assert gateway._upkeep is not None
            gateway._upkeep.cancel()
            a, event = Who("a", by_address=False), EventCreate(event_type="reward", data={"value": 1.0})
            await gateway.rollouts.create([RolloutCreate(input=i, rollout_id=f"r{i}") for i in range(4)])
            await gateway.controllers.listed(a, BOTH, 1)  # its session begins, and scripts are loaded
            for state in (RolloutState.RUNNING, RolloutState.SUCCEEDED):
                await gateway.changes.patch(a, "r0", StatusPatch(state=state))
            await gateway.events.add("r0", "0", event)
            await gateway.rollouts.delete("r0")
            monkeypatch.setattr(Pool, "exchange", counting)
            return {
                "list": await took(gateway.controllers.listed(a, BOTH, 3)),
                "start": await took(gateway.changes.patch(a, "r1", StatusPatch(state=RolloutState.RUNNING))),
                "event": await took(gateway.events.add("r1", "0", event)),
                "end": await took(gateway.changes.patch(a, "r1", StatusPatch(state=RolloutState.SUCCEEDED))),
                "look": await took(gateway.rollouts.get("r1")),
                "events": await took(gateway.events.of("r1", EventsQuery())),
                "delete": await took(gateway.rollouts.delete("r1")),
            }

    assert asyncio.run(scenario()) == {
        "list": 2,
        "start": 1,
        "event": 2,
        "end": 1,
        "look": 1,
        "events": 2,
        "delete": 2,
    }
