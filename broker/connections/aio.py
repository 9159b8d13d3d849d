"""The asyncio client: a few connections, of which each carries one call at a time; a cancelled call closes its own."""

import asyncio
import os
from collections.abc import Sequence
from contextlib import suppress
from types import TracebackType
from typing import Any, Self

import redis.asyncio.connection
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisError

from broker.connections.core import Core
from broker.connections.forks import told
from broker.connections.link import (
    CLOSED,
    READ_BYTES,
    Command,
    Link,
    LinkLost,
    ReplyReader,
    in_pieces,
    lost,
    new_connection,
    packed,
    parse_error,
)
from broker.connections.nodes import Gate
from broker.connections.opening import opened_address
from broker.connections.server import ServerInfo
from broker.connections.url import Address, Endpoint
from broker.errors import BadArgument

#: The most connections to one server, besides those that wait for markers.
_MOST_LINKS = 4
#: Larger pieces than this, in bytes, are waited for until the server has taken them.
_QUEUED_BYTES = 16 * 1024

_FORKED = (
    "this client was opened before a fork, and its connections and numbers belong to that process: open another one "
    "in the child"
)


class AsyncTransport(Core):
    """`Transport` for asyncio: the same methods, awaitable. Made by `open_async_transport`, used in one event loop.

    In a forked child it makes no call: what it would wait for belongs to the parent's event loop. One that had made no
    call before the fork is as good as new.

    Attributes:
        url: where it goes, without password.
        is_forked: whether this is the copy of a forked child, and makes no call.
    """

    def __init__(self, url: str, timeout_s: float, retry_for_s: float) -> None:
        address, self._embedded = opened_address(url)
        self.url = address.shown
        self.is_forked = self._used = False
        super().__init__(address, timeout_s, retry_for_s, asyncio.Event())
        told.add(self)

    async def close(self) -> None:
        """As `Transport.close`."""
        told.discard(self)
        if not self.is_forked:
            self.end()
        # Connections that were just closed are let go in the next turn of the loop.
        await asyncio.sleep(0)
        embedded, self._embedded = self._embedded, None
        if embedded is not None:
            await asyncio.to_thread(embedded.release)

    def after_fork(self) -> None:
        """In a forked child: forgets the parent's connections."""
        if self._used:
            self.is_forked = True
            self._nodes.clear()

    def refuse_forked(self) -> None:
        """Raises BadArgument in a forked child.

        For callers that would wait for a lock first, which nobody opens there. No call gets past `_dial` in any case.
        """
        if self.is_forked:
            raise BadArgument(problem=_FORKED)

    async def _dial(self, endpoint: Endpoint, address: Address, timeout_s: float) -> Link:
        self.refuse_forked()
        self._used = True
        return await super()._dial(endpoint, address, timeout_s)

    async def _connected(self, endpoint: Endpoint, path: str, address: Address, timeout_s: float) -> Link:
        link = AsyncLink(endpoint, path, address, timeout_s)
        await link.connect()
        return link

    def _gate(self) -> Gate:
        return asyncio.Semaphore(_MOST_LINKS)

    async def _until_closing(self, seconds: float) -> None:
        assert isinstance(self._closing, asyncio.Event), "given above"
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._closing.wait()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()


#: The one with hiredis, where that is there.
_DefaultParser: Any = redis.asyncio.connection.DefaultParser


class Parser(_DefaultParser):
    """redis-py's parser, with our errors."""

    parse_error = staticmethod(parse_error)


class AsyncLink:
    """A connection on the event loop. redis-py opens it and logs in; from then on its streams are used directly."""

    def __init__(self, endpoint: Endpoint, path: str, address: Address, timeout_s: float) -> None:
        self.info: ServerInfo | None = None
        self._timeout_s = timeout_s
        self._connection = new_connection(
            redis.asyncio.connection,
            endpoint,
            path,
            address,
            timeout_s,
            # Not redis-py's: it waits with `wait_for`, which before Python 3.12 may swallow a cancellation.
            socket_timeout=None,
            retry=Retry(NoBackoff(), 0),
            parser_class=Parser,
        )
        self._reader = ReplyReader()
        told.add(self)

    async def connect(self) -> None:
        """Connects and logs in; raises what redis-py raises."""
        try:
            async with asyncio.timeout(self._timeout_s):
                await self._connection.connect()
        except BaseException:
            self.abort()
            raise

    async def exchange(self, commands: Sequence[Command], wait_s: float = 0.0) -> list[Any]:
        """As `Link.exchange`."""
        replies: list[Any] = []
        patience_s, expected, read = self._timeout_s + wait_s, len(commands), self._reader.read
        try:
            stream, writer = self._streams()
            # The server may be silent for so long; what it does say, a piece of a large reply too, starts it again.
            async with asyncio.timeout(patience_s) as silence:
                for piece in in_pieces(packed(commands)):
                    writer.write(piece)
                    if len(piece) > _QUEUED_BYTES:
                        # Returns when the server has taken all but a little: no large value is queued as a whole.
                        await writer.drain()
                        silence.reschedule(asyncio.get_running_loop().time() + patience_s)
                while True:
                    data = await stream.read(READ_BYTES)
                    if not data:
                        raise LinkLost(CLOSED)
                    read(data, len(data), replies)
                    if len(replies) == expected:
                        break
                    silence.reschedule(asyncio.get_running_loop().time() + patience_s)
        except (RedisError, OSError) as error:
            raise lost(error, patience_s) from error
        return replies

    def interrupt(self) -> None:
        """As `Link.interrupt`."""
        writer = self._connection._writer  # noqa: SLF001 - redis-py closes only after what is queued was sent
        if writer is not None:
            writer.transport.abort()

    def abort(self) -> None:
        """As `Link.abort`."""
        self.interrupt()
        self._connection._close()  # noqa: SLF001 - as redis-py's `disconnect`, which has to be awaited

    def after_fork(self) -> None:
        """In a forked child: its number of the socket becomes another file.

        Both processes share what the event loop watches sockets with. Whatever the child's copies do with the number,
        be it when they are collected, would otherwise take the socket from the parent's loop.
        """
        writer = self._connection._writer  # noqa: SLF001 - redis-py keeps it to itself
        socket = None if writer is None else writer.get_extra_info("socket")
        if socket is not None and socket.fileno() >= 0:
            nothing = os.open(os.devnull, os.O_RDWR)
            os.dup2(nothing, socket.fileno(), inheritable=False)
            os.close(nothing)

    def _streams(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        connection = self._connection
        reader, writer = connection._reader, connection._writer  # noqa: SLF001 - redis-py keeps them to itself
        if reader is None or writer is None:
            raise LinkLost(CLOSED)
        return reader, writer
