"""Sends small script calls of several requests in one exchange with the server."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Sequence
from typing import Any

from broker.connections import AsyncTransport
from broker.protocol.script_call import ScriptCall

#: Exchanges under way at the same time: the server works on one while this process works on the answers of another.
_UNDER_WAY = 2
#: Requests whose calls share one exchange.
_MOST_TOGETHER = 32

Calls = Sequence[ScriptCall[Any]]


class Together:
    """Calls that come while exchanges are under way wait, and share the next exchange.

    For a small call an exchange costs both sides more than the call. A call that nothing is ahead of is sent at once.
    The calls of one request stay together, in their order.

    Args:
        transport: the server.
    """

    def __init__(self, transport: AsyncTransport) -> None:
        self._transport = transport
        self._under_way = 0
        self._waiting: deque[tuple[Calls, asyncio.Future[list[Any]]]] = deque()
        self._tasks: set[asyncio.Task[None]] = set()

    async def execute(self, calls: Calls) -> list[Any]:
        """As `AsyncTransport.execute`, for calls with small arguments and answers."""
        if self._under_way >= _UNDER_WAY:
            answers: asyncio.Future[list[Any]] = asyncio.get_running_loop().create_future()
            self._waiting.append((calls, answers))
            return await answers
        self._under_way += 1
        try:
            return await self._transport.execute(calls)
        finally:
            self._end()

    def _end(self) -> None:
        """Ends an exchange, and begins the next one if calls wait."""
        self._under_way -= 1
        if not self._waiting:
            return
        self._under_way += 1
        task = asyncio.create_task(self._send())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _send(self) -> None:
        try:
            batch = [self._waiting.popleft() for _ in range(min(len(self._waiting), _MOST_TOGETHER))]
            batch = [(calls, answers) for calls, answers in batch if not answers.done()]  # its request was given up
            try:
                found = await self._transport.execute([call for calls, _ in batch for call in calls])
            except BaseException as error:
                for _, answers in batch:
                    if not answers.done():
                        answers.set_exception(error)
                if not isinstance(error, Exception):
                    raise
                return
            at = 0
            for calls, answers in batch:
                if not answers.done():
                    answers.set_result(found[at : at + len(calls)])
                at += len(calls)
        finally:
            self._end()
