"""The asyncio client: many calls share a connection, and a cancelled call harms none of the others."""

import asyncio
import ssl
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from types import TracebackType
from typing import Any, Self

from broker.connections.core import Core
from broker.connections.link import MORE, Command, Link, LinkLost, NotRedis, Pool, make_reader, pack, reason
from broker.connections.opening import opened_address
from broker.connections.paths import socket_path
from broker.connections.server import ServerInfo
from broker.connections.tls import tls_context, tls_failure
from broker.connections.url import Address, Endpoint
from broker.errors import ServerUnavailable
from broker.operation import Operation

#: The most connections to one server. A second one is opened only while the first is busy.
_MOST_LINKS = 4


class AsyncTransport:
    """`Transport` for asyncio: the same methods, awaitable. Made by `open_async_transport`, used in one event loop.

    Attributes:
        url: where it goes, without password.
    """

    def __init__(self, url: str, timeout_s: float, retry_for_s: float) -> None:
        address, self._embedded = opened_address(url)
        self.url = address.shown
        self._sockets = AsyncSockets(self.url)
        self._core = Core(address, self._sockets, timeout_s, retry_for_s)

    async def execute(self, operations: Sequence[Operation[Any]]) -> list[Any]:
        """As `Transport.execute`."""
        return await self._core.execute(operations)

    async def command(self, *args: str | bytes | int) -> Any:
        """As `Transport.command`."""
        return (await self._core.pipeline([args]))[0]

    async def pipeline(self, commands: Sequence[Sequence[str | bytes | int]]) -> list[Any]:
        """As `Transport.pipeline`."""
        return await self._core.pipeline([tuple(command) for command in commands])

    async def wait_marker(self, keys: Sequence[str], timeout_s: float) -> str | None:
        """As `Transport.wait_marker`."""
        return await self._core.wait_marker(keys, timeout_s)

    def interrupt(self) -> None:
        """As `Transport.interrupt`."""
        self._core.interrupt()

    async def server_info(self) -> ServerInfo:
        """As `Transport.server_info`."""
        return await self._core.server_info()

    async def close(self) -> None:
        """As `Transport.close`."""
        self._sockets.close()
        self._core.close()
        await self._sockets.settled()
        embedded, self._embedded = self._embedded, None
        if embedded is not None:
            await asyncio.to_thread(embedded.release)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()


class AsyncSockets:
    """Connections and pauses on the event loop."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._closed = asyncio.Event()
        self._pools: list[SharedPool] = []

    def close(self) -> None:
        """Ends all pauses."""
        self._closed.set()

    async def settled(self) -> None:
        """Waits until nothing of the pools runs any more."""
        for pool in self._pools:
            await pool.settled()
        # Connections that were just closed are let go in the next turn of the loop.
        await asyncio.sleep(0)

    async def dial(self, endpoint: Endpoint, address: Address, timeout_s: float) -> Link:
        """As `Sockets.dial`."""
        self._refuse_when_closed()
        if address.mode == "fakeredis":
            from broker.connections.fake import FakeLink

            return FakeLink(address.path, self.pause)
        loop, context = asyncio.get_running_loop(), tls_context(address)
        link = AsyncLink(timeout_s)
        try:
            async with asyncio.timeout(timeout_s):
                if endpoint.path:
                    with socket_path(endpoint.path) as path:
                        await loop.create_unix_connection(lambda: link, path)
                else:
                    await loop.create_connection(lambda: link, endpoint.host, endpoint.port, ssl=context)
        except ssl.SSLError as error:
            raise tls_failure(error, address) from error
        except TimeoutError as error:
            question = ": does it speak TLS?" if address.tls else ""
            raise LinkLost(f"cannot connect (no answer for {timeout_s:g} s{question})") from error
        except OSError as error:
            raise LinkLost(f"cannot connect ({reason(error)})") from error
        return link

    def pool(self, opened: Callable[[], Awaitable[Link]]) -> Pool:
        """As `Sockets.pool`."""
        self._pools.append(SharedPool(opened))
        return self._pools[-1]

    async def pause(self, seconds: float) -> None:
        """As `Sockets.pause`."""
        try:
            async with asyncio.timeout(seconds):
                await self._closed.wait()
        except TimeoutError:
            pass
        self._refuse_when_closed()

    def _refuse_when_closed(self) -> None:
        if self._closed.is_set():
            raise ServerUnavailable(url=self._url, error="this client was closed")


class SharedPool:
    """A few connections, each with any number of calls under way: answers come in the order of the calls.

    A call goes to a connection that is idle, else to a new one, else to the one with the fewest calls, so that a large
    transfer holds up only what shares its connection.
    """

    def __init__(self, opened: Callable[[], Awaitable[Link]]) -> None:
        self._opened = opened
        self._calls: dict[Link, int] = {}
        self._opening: asyncio.Task[Link] | None = None

    async def exchange(self, commands: Sequence[Command], wait_s: float = 0.0) -> list[Any]:
        """As `Pool.exchange`."""
        link = await self._pick()
        self._calls[link] += 1
        try:
            replies = await link.exchange(commands, wait_s)
        except (LinkLost, NotRedis):
            self._calls.pop(link, None)
            link.abort()
            raise
        finally:
            if link in self._calls:
                self._calls[link] -= 1
        return replies

    async def _pick(self) -> Link:
        best = min(self._calls, key=self._calls.__getitem__, default=None)
        if best is not None and (not self._calls[best] or len(self._calls) >= _MOST_LINKS):
            return best
        # Callers that come together open one connection, not one each; a cancelled caller does not undo it.
        if self._opening is None:
            self._opening = asyncio.ensure_future(self._open())
            self._opening.add_done_callback(self._opened_one)
        if best is not None:
            return best
        opening = self._opening
        try:
            return await asyncio.shield(opening)
        except asyncio.CancelledError:
            if opening.cancelled():
                raise LinkLost("the connection was dropped while it was made") from None
            raise

    async def _open(self) -> Link:
        link = await self._opened()
        self._calls[link] = 0
        return link

    def _opened_one(self, task: "asyncio.Task[Link]") -> None:
        self._opening = None
        if not task.cancelled():
            task.exception()  # asked for, so that it is not reported as never retrieved

    def interrupt(self) -> bool:
        """As `Pool.interrupt`."""
        busy = [link for link, calls in self._calls.items() if calls]
        for link in busy:
            link.interrupt()
        return bool(busy)

    def drop(self) -> None:
        """As `Pool.drop`."""
        if self._opening is not None:
            self._opening.cancel()
        for link in list(self._calls):
            link.abort()
        self._calls.clear()

    async def settled(self) -> None:
        """Waits until no connection is being made."""
        if self._opening is not None:
            await asyncio.wait([self._opening])


class AsyncLink(asyncio.Protocol):
    """A connection on the event loop; calls may overlap."""

    def __init__(self, timeout_s: float) -> None:
        self.info: ServerInfo | None = None
        self._timeout_s = timeout_s
        self._transport: asyncio.Transport | None = None
        self._reader = make_reader()
        #: Calls under way: where the replies go, how many are to come, and how long the server may wait on purpose.
        self._calls: deque[tuple[asyncio.Future[list[Any]], int, float]] = deque()
        self._replies: list[Any] = []
        self._received = 0
        self._watchdog: asyncio.TimerHandle | None = None

    async def exchange(self, commands: Sequence[Command], wait_s: float = 0.0) -> list[Any]:
        """As `Link.exchange`."""
        if self._transport is None or self._transport.is_closing():
            raise LinkLost("the server closed the connection")
        loop = asyncio.get_running_loop()
        future: asyncio.Future[list[Any]] = loop.create_future()
        self._calls.append((future, len(commands), wait_s))
        for piece in pack(commands):
            self._transport.write(piece)
        if self._watchdog is None:
            self._watch()
        return await future

    def interrupt(self) -> None:
        """As `Link.interrupt`."""
        self.abort()

    def abort(self) -> None:
        """As `Link.abort`."""
        if self._transport is not None:
            self._transport.abort()
        self._fail(LinkLost("the connection was closed"))

    # -- called by the event loop ----------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """The connection is there."""
        assert isinstance(transport, asyncio.Transport), "a stream transport"
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        """Gives replies to the calls that wait for them, in the order of the calls."""
        self._received += len(data)
        reader, replies = self._reader, self._replies
        try:
            reader.feed(data)
            while (reply := reader.gets()) is not MORE:
                replies.append(reply)
                if self._calls and len(replies) == self._calls[0][1]:
                    future = self._calls.popleft()[0]
                    if not future.done():
                        future.set_result(replies)
                    replies = self._replies = []
        except NotRedis as error:
            self._fail(error)
            self.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        """The connection is gone."""
        self._fail(LinkLost(str(exc) if exc else "the server closed the connection"))

    def _fail(self, error: Exception) -> None:
        """Ends all calls under way."""
        if self._watchdog is not None:
            self._watchdog.cancel()
            self._watchdog = None
        while self._calls:
            future = self._calls.popleft()[0]
            if not future.done():
                future.set_exception(error)

    def _watch(self) -> None:
        """Ends the connection when the server is silent for the time-out while calls are under way.

        One timer for each connection instead of one for each call: calls are many, silence is rare.
        """
        if not self._calls or self._transport is None:
            self._watchdog = None
            return
        before = self._progress()

        def look() -> None:
            if self._calls and self._progress() == before:
                self._fail(LinkLost(f"no answer for {patience_s:g} s"))
                self.abort()
            else:
                self._watch()

        patience_s = self._timeout_s + self._calls[0][2]
        self._watchdog = asyncio.get_running_loop().call_later(patience_s, look)

    def _progress(self) -> tuple[int, int]:
        """Bytes received, and bytes that the server has not taken yet."""
        assert self._transport is not None, "connected"
        return self._received, self._transport.get_write_buffer_size()
