"""Limits the bytes of request bodies that are in memory at the same time."""

from __future__ import annotations

import asyncio
from collections import deque


class Full(Exception):
    """There is no room for a request body; the client may try again later."""


class Held:
    """The bytes of the room that one request holds."""

    def __init__(self, room: Room, size: int) -> None:
        self._room, self.size = room, size

    def end(self) -> None:
        """Gives the bytes back."""
        self._room.give_back(self.size)
        self.size = 0

    def grow(self, size: int) -> None:
        """Holds at least the given number of bytes, for a body whose length was not announced.

        It never waits: two requests that hold half of the room each would wait for each other.

        Raises:
            Full: there is no room for these bytes.
        """
        if size > self.size:
            self._room.take(size - self.size)
            self.size = size


class Room:
    """A bound on bytes, given out in the order of asking.

    A request asks before it reads its body. So waiting bodies are in the sender's memory, not in this process.

    Args:
        most: bytes that are held together; a single request needs no more.
    """

    def __init__(self, most: int) -> None:
        self._most, self._left = most, most
        self._waiting: deque[tuple[int, asyncio.Future[None]]] = deque()

    def take(self, size: int) -> None:
        """Takes bytes at once. Raises Full."""
        if size > self._left:
            raise Full(f"{self._most - self._left} of {self._most} bytes for requests are in use: try again later.")
        self._left -= size

    def give_back(self, size: int) -> None:
        """Gives bytes back, for requests that wait."""
        self._left += size
        if self._waiting:
            self._let_in()

    async def hold(self, size: int, within_s: float) -> Held:
        """Holds room for a body, until `Held.end`.

        Args:
            size: bytes of the body.
            within_s: how long to wait for room, in seconds.

        Raises:
            Full: other requests held the room for all that time.
        """
        if not self._waiting and size <= self._left:
            self._left -= size
        else:
            await self._wait_for(size, within_s)
        return Held(self, size)

    async def _wait_for(self, size: int, within_s: float) -> None:
        turn = (size, asyncio.get_running_loop().create_future())
        self._waiting.append(turn)
        try:
            async with asyncio.timeout(within_s):
                await turn[1]
        except BaseException as error:
            if turn in self._waiting:
                self._waiting.remove(turn)
            elif turn[1].done() and not turn[1].cancelled():  # the request was let in at the moment when it gave up
                self._left += size
            self._let_in()
            if isinstance(error, TimeoutError):
                raise Full(f"All {self._most} bytes for requests are in use: try again later.") from None
            raise

    def _let_in(self) -> None:
        while self._waiting and (self._waiting[0][1].done() or self._waiting[0][0] <= self._left):
            size, turn = self._waiting.popleft()
            if not turn.done():
                self._left -= size
                turn.set_result(None)
