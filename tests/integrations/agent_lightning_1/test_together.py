"""Small calls of several requests share an exchange."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any, cast

import pytest

from broker.connections import AsyncTransport
from broker.errors import ServerUnavailable
from broker.integrations.agent_lightning_1.together import Together
from broker.protocol.script_call import ScriptCall


class Recorded:
    """A transport whose exchanges end when the test says so. A call's answer is the name of its script."""

    def __init__(self) -> None:
        self.exchanges: list[list[str]] = []
        self._ends: list[asyncio.Future[None]] = []

    async def execute(self, calls: Sequence[ScriptCall[Any]], *_: Any) -> list[Any]:
        self.exchanges.append([call.script for call in calls])
        self._ends.append(asyncio.get_running_loop().create_future())
        await self._ends[len(self.exchanges) - 1]
        return [call.script for call in calls]

    async def end(self, number: int, error: Exception | None = None) -> None:
        if error is None:
            self._ends[number].set_result(None)
        else:
            self._ends[number].set_exception(error)
        for _ in range(5):
            await asyncio.sleep(0)


def call(name: str) -> ScriptCall[Any]:
    return ScriptCall(name, ("k",), (), str)


async def asked(together: Together, *requests: Sequence[str]) -> list[asyncio.Task[list[Any]]]:
    tasks = [asyncio.create_task(together.execute([call(name) for name in names])) for names in requests]
    await asyncio.sleep(0)
    return tasks


def test_calls_that_wait_go_together_each_with_its_own_answers() -> None:
    async def scenario() -> None:
        transport = Recorded()
        together = Together(cast("AsyncTransport", transport))
        tasks = await asked(together, ["a"], ["b"], ["c", "d"], ["e"])
        assert transport.exchanges == [["a"], ["b"]]
        await transport.end(0)
        assert transport.exchanges == [["a"], ["b"], ["c", "d", "e"]]
        await transport.end(1)
        await transport.end(2)
        assert [await task for task in tasks] == [["a"], ["b"], ["c", "d"], ["e"]]
        (last,) = await asked(together, ["f"])
        assert transport.exchanges[3:] == [["f"]]
        await transport.end(3)
        assert await last == ["f"]

    asyncio.run(scenario())


def test_a_request_that_is_given_up_takes_none_with_it() -> None:
    async def scenario() -> None:
        transport = Recorded()
        together = Together(cast("AsyncTransport", transport))
        first, second, third, fourth = await asked(together, ["a"], ["b"], ["c"], ["d"])
        third.cancel()
        first.cancel()
        for _ in range(5):
            await asyncio.sleep(0)
        assert transport.exchanges == [["a"], ["b"], ["d"]]
        await transport.end(1)
        await transport.end(2)
        assert [await second, await fourth] == [["b"], ["d"]]

    asyncio.run(scenario())


def test_a_failed_exchange_fails_its_requests_and_no_others() -> None:
    async def scenario() -> None:
        transport = Recorded()
        together = Together(cast("AsyncTransport", transport))
        first, second, third, fourth = await asked(together, ["a"], ["b"], ["c"], ["d"])
        await transport.end(0)
        await transport.end(2, ServerUnavailable(url="u", tried_s=1.0, reason="away"))
        for failed in (third, fourth):
            with pytest.raises(ServerUnavailable):
                await failed
        await transport.end(1)
        assert [await first, await second] == [["a"], ["b"]]
        (last,) = await asked(together, ["e"])
        await transport.end(3)
        assert await last == ["e"]

    asyncio.run(scenario())
