"""A server of an address: its connections, and what is known of it."""

from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Any

from broker.connections.link import Command, Link, NotRedis
from broker.connections.replies import ReplyError
from broker.connections.retrying import Again
from broker.connections.server import ServerInfo, greet, judge
from broker.connections.url import Address, Endpoint
from broker.errors import UnsupportedServer

Gate = AbstractAsyncContextManager[Any]


class Pool:
    """Connections to one server, of which each carries one exchange at a time.

    Args:
        opened: opens one.
        greet: asks the server what it is, on a new connection.
        gate: limits the exchanges at a time, None: no limit.
        interrupted: whether exchanges are to fail now. Who lets it be true calls `interrupt` afterwards: an exchange
            that has not begun by then sees it.
    """

    def __init__(
        self,
        opened: Callable[[], Awaitable[Link]],
        greet: Callable[[Link], Awaitable[None]],
        gate: Gate | None,
        interrupted: Callable[[], bool],
    ) -> None:
        self._opened, self._greet, self._gate, self._interrupted = opened, greet, gate, interrupted
        self._idle: deque[Link] = deque()
        self._busy: set[Link] = set()
        self._generation = 0

    async def exchange(self, commands: Sequence[Command], wait_s: float = 0.0) -> list[Any]:
        """As `Link.exchange`, on one of the connections, which is opened when there is none."""
        if self._gate is None:
            return await self._exchange(commands, wait_s)
        async with self._gate:
            return await self._exchange(commands, wait_s)

    async def _exchange(self, commands: Sequence[Command], wait_s: float) -> list[Any]:
        generation = self._generation
        try:
            link, is_new = self._idle.pop(), False
        except IndexError:
            link, is_new = await self._opened(), True
        self._busy.add(link)
        try:
            if self._interrupted():
                link.interrupt()
            if is_new:
                await self._greet(link)
            replies = await link.exchange(commands, wait_s)
        except BaseException:
            # Broken, or cancelled half-way: the rest of a reply may be on its way still.
            link.abort()
            raise
        finally:
            self._busy.discard(link)
        if generation == self._generation:
            self._idle.append(link)
        else:
            link.abort()
        return replies

    def interrupt(self) -> None:
        """Breaks the connections that are waiting for replies."""
        for link in list(self._busy):
            link.interrupt()

    def drop(self) -> None:
        """Closes the connections; those that are in use when they are given back."""
        self._generation += 1
        while self._idle:
            self._idle.pop().abort()


class Node:
    """One server.

    Attributes:
        endpoint: where it is.
        pool: connections for calls that do not block in the server.
        waits: connections for those that do.
        info: the server, once it was asked.
        known: the scripts that it has.
        calls_functions: whether operations are called as functions of the library (see `broker.lua_library`).
    """

    def __init__(
        self,
        endpoint: Endpoint,
        address: Address,
        dial: Callable[[Endpoint], Awaitable[Link]],
        gate: Gate | None,
        closed: Callable[[], bool],
        interrupted: Callable[[], bool],
    ) -> None:
        self.endpoint, self._address, self._dial = endpoint, address, dial
        self.info: ServerInfo | None = None
        self.known: set[str] = set()
        self.calls_functions = False
        self.pool = Pool(self._opened, self._greet, gate, closed)
        self.waits = Pool(self._opened, self._greet, None, interrupted)

    @property
    def supports_shebang(self) -> bool:
        """Whether its scripts may begin with a `#!lua` line."""
        return self.info is not None and self.info.supports_shebang

    def drop(self) -> None:
        """As `Pool.drop`."""
        self.pool.drop()
        self.waits.drop()

    async def _opened(self) -> Link:
        try:
            return await self._dial(self.endpoint)
        except ReplyError as error:
            raise Again(judge(error, self._address).text) from error

    async def _greet(self, link: Link) -> None:
        try:
            info = await greet(link, self._address)
        except NotRedis as error:
            raise not_redis(error, self.endpoint, self._address) from error
        if isinstance(info, ReplyError):
            raise Again(info.text)
        if self._address.mode == "sentinel" and info.replica:
            raise Again(f"{self.endpoint} is not a primary any more")
        if info != self.info:
            # Another server has this place now; it has none of the scripts.
            self.known.clear()
            self.info = info
            self.calls_functions = info.supports_shebang


def not_redis(error: NotRedis, endpoint: Endpoint, address: Address) -> UnsupportedServer:
    """What to raise when a new connection gets answers that no Redis gives."""
    tls = "" if address.tls is not None else "; if it speaks TLS, connect with rediss://"
    return UnsupportedServer(
        url=address.shown, problem=f"what listens at {endpoint} is neither Redis nor Valkey ({error}){tls}"
    )
