"""The transport for asyncio: a few connections with one call each at a time; a cancelled call closes its own."""

import asyncio
import inspect
import ipaddress
import math
import os
import socket
import time
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from contextlib import suppress
from types import TracebackType
from typing import Any, Self, TypeVar

from broker.connections.background import in_background
from broker.connections.base import BaseTransport
from broker.connections.connection import (
    MUCH_BYTES,
    READ_BYTES,
    Connection,
    RedisCommand,
    ReplyReader,
    packed,
)
from broker.connections.credentials import Credentials
from broker.connections.endpoint import Endpoint
from broker.connections.failures import closed, of_connecting, of_exchange
from broker.connections.forks import FORKED, told
from broker.connections.resolve import opened_address
from broker.connections.server import Limiter
from broker.connections.server_info import ServerInfo
from broker.connections.url import Address
from broker.errors import BadArgument
from broker.values.hooks import check_hook

T = TypeVar("T")

#: The most connections to one server, besides those that wait for markers.
_MOST_CONNECTIONS = 4
#: After a chunk larger than this, in bytes, the sender waits until the server has taken it.
_QUEUED_BYTES = 16 * 1024


class AsyncTransport(BaseTransport):
    """`Transport` for asyncio: the same methods, awaitable. Made by `open_async_transport`, used in one event loop.

    In a forked child it makes no call: its connections belong to the parent's event loop. A transport that had made
    no call before the fork works in the child.

    Attributes:
        url: the server's URL, without password.
        is_forked: whether this is the copy of a forked child, which makes no call.
    """

    def __init__(
        self, url: str, timeout_s: float, retry_for_s: float, credentials: Credentials | None = None, name: str = ""
    ) -> None:
        check_hook("credentials", credentials)
        address, self._embedded = opened_address(url)
        self.url = address.shown
        self.is_forked = self._used = False
        super().__init__(address, timeout_s, retry_for_s, asyncio.Event(), credentials, name)
        told.add(self)

    def give_up(self) -> None:
        """Releases an embedded server when no call was made; may block for a moment."""
        told.discard(self)
        embedded, self._embedded = self._embedded, None
        if embedded is not None:
            embedded.release()

    async def close(self) -> None:
        """As `Transport.close`."""
        told.discard(self)
        if not self.is_forked:
            self.end()
        # Connections that were just closed are released in the next turn of the loop.
        await asyncio.sleep(0)
        embedded, self._embedded = self._embedded, None
        if embedded is not None:
            await asyncio.to_thread(embedded.release)

    def after_fork(self) -> None:
        """In a forked child: forgets the parent's connections."""
        if self._used:
            self.is_forked = True
            self._servers.clear()

    def refuse_forked(self) -> None:
        """Raises BadArgument in a forked child.

        For callers that would first wait for a lock, which is never released there. `_dial` refuses every call too.
        """
        if self.is_forked:
            raise BadArgument(problem=FORKED)

    def turn(self) -> "TaskTurn":
        """As `BaseTransport.turn`."""
        return TaskTurn()

    def detached(self, call: Coroutine[Any, Any, T]) -> Callable[[], Awaitable[T]]:
        """As `BaseTransport.detached`, in a task."""
        task = asyncio.create_task(call)
        task.add_done_callback(lambda done: done.cancelled() or done.exception())  # nobody may wait for it any more

        async def answer() -> T:
            return await asyncio.shield(task)

        return answer

    async def ask(self, name: str, hook: Callable[..., Any], *given: Any, **named: Any) -> Any:
        """As `BaseTransport.ask`."""
        answer = hook(*given, **named)
        return await answer if inspect.isawaitable(answer) else answer

    async def blocking(self, call: Callable[[], T]) -> T:
        """As `BaseTransport.blocking`, in a thread."""
        return await asyncio.to_thread(call)

    async def _dial(self, endpoint: Endpoint, address: Address, until: float, timeout_s: float) -> Connection:
        self.refuse_forked()
        self._used = True
        return await super()._dial(endpoint, address, until, timeout_s)

    async def _connected(self, endpoint: Endpoint, path: str, address: Address, timeout_s: float) -> Connection:
        connection = AsyncConnection(endpoint, path, address, timeout_s)
        await connection.connect()
        return connection

    def _limiter(self) -> Limiter:
        return asyncio.Semaphore(_MOST_CONNECTIONS)

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


class TaskTurn:
    """A lock of tasks."""

    def __init__(self) -> None:
        self._lock = asyncio.Lock()

    async def take(self, call: Callable[[], Awaitable[T]]) -> T:
        """As `Turn.take`."""
        async with self._lock:
            return await call()


class AsyncConnection:
    """A connection on the event loop."""

    def __init__(self, endpoint: Endpoint, path: str, address: Address, timeout_s: float) -> None:
        self.info: ServerInfo | None = None
        self.until = math.inf
        self._endpoint, self._path, self._address, self._timeout_s = endpoint, path, address, timeout_s
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None
        self._reader = ReplyReader()
        told.add(self)

    async def connect(self) -> None:
        """As `BlockingConnection.connect`."""
        context, host = self._address.tls and self._address.tls.context(), self._endpoint.host
        try:
            async with asyncio.timeout(self._timeout_s):
                if self._path:
                    self._streams = await asyncio.open_unix_connection(self._path)
                    return
                tls: dict[str, Any] = {} if context is None else {"ssl": context, "server_hostname": host}
                self._streams = await _opened(host, self._endpoint.port, tls, self._timeout_s)
            sock: socket.socket = self._streams[1].get_extra_info("socket")
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        except (OSError, UnicodeError) as error:
            raise of_connecting(
                error, path=self._path, is_tls=context is not None, timeout_s=self._timeout_s
            ) from error

    async def exchange(self, commands: Sequence[RedisCommand], wait_s: float = 0.0) -> list[Any]:
        """As `Connection.exchange`."""
        replies: list[Any] = []
        patience_s, expected, read, answered = self._timeout_s + wait_s, len(commands), self._reader.read, 0
        chunks = packed(commands)
        if self._streams is None:
            raise closed(0)
        stream, writer = self._streams
        try:
            # How long the server may be silent; each chunk of a reply starts this time again.
            async with asyncio.timeout(patience_s) as silence:
                for chunk in chunks:
                    writer.write(chunk)
                    if self._path and writer.is_closing():
                        self._read_last_words(writer)
                    if len(chunk) > _QUEUED_BYTES:
                        # Returns when the server has taken nearly everything: a large value is never queued as a whole.
                        await self._drained(stream, writer)
                        silence.reschedule(asyncio.get_running_loop().time() + patience_s)
                while True:
                    data = await stream.read(READ_BYTES)
                    if not data:
                        raise closed(answered)
                    answered += len(data)
                    read(data, len(data), replies)
                    if len(replies) == expected:
                        break
                    silence.reschedule(asyncio.get_running_loop().time() + patience_s)
        except OSError as error:
            moved = answered > 0 or sum(map(len, chunks)) > MUCH_BYTES
            raise of_exchange(error, patience_s, moved=moved) from error
        return replies

    async def _drained(self, stream: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await writer.drain()
        except ConnectionError:
            # A server that refuses the bytes of a call says why before it closes. The stream has it, but raises.
            said: bytes = bytes(getattr(stream, "_buffer", b""))
            self._reader.read(said, len(said), [])
            raise

    def _read_last_words(self, writer: asyncio.StreamWriter) -> None:
        """Raises Failure if a server that had closed a Unix socket before this write has said why.

        Such a write fails at once, and asyncio closes the socket without reading what is there, in the next turn of its
        loop.
        """
        opened = writer.get_extra_info("socket")
        with suppress(OSError), socket.socket(fileno=os.dup(opened.fileno())) as copy:
            copy.setblocking(False)
            if said := copy.recv(READ_BYTES):
                self._reader.read(said, len(said), [])

    def be_patient(self, timeout_s: float) -> None:
        """As `Connection.be_patient`."""
        self._timeout_s = timeout_s

    def interrupt(self) -> None:
        """As `Connection.interrupt`. It does not close, for that would wait for queued bytes."""
        if self._streams is not None:
            self._streams[1].transport.abort()

    def abort(self) -> None:
        """As `Connection.abort`."""
        self.interrupt()
        self._streams = None

    def after_fork(self) -> None:
        """In a forked child: makes the socket's file descriptor refer to another file.

        Both processes share the selector of the event loop. Anything that the child's copies do with the descriptor,
        even as garbage, would otherwise remove the socket from the parent's loop.
        """
        opened = None if self._streams is None else self._streams[1].get_extra_info("socket")
        if opened is not None and opened.fileno() >= 0:
            nothing = os.open(os.devnull, os.O_RDWR)
            os.dup2(nothing, opened.fileno(), inheritable=False)
            os.close(nothing)


async def _opened(
    host: str, port: int, tls: dict[str, Any], timeout_s: float
) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """Connects to the first address of a host that takes the connection; a silent one leaves time for the others.

    The event loop would look the name up in a thread for whose end the process waits, as long as the resolver does.
    """
    places = [host]
    if not _is_address(host):
        found, _ = in_background(lambda: socket.getaddrinfo(host, port, type=socket.SOCK_STREAM), "broker-resolver")
        places = list(dict.fromkeys(str(place[0]) for *_, place in await asyncio.wrap_future(found)))
    until = time.monotonic() + timeout_s
    failed: OSError | None = None
    for i, place in enumerate(places):
        try:
            async with asyncio.timeout(max(0.01, until - time.monotonic()) / (len(places) - i)):
                return await asyncio.open_connection(place, port, **tls)
        except OSError as error:
            failed = failed or error
    assert failed is not None, "a host has an address, or the resolver raised"
    raise failed


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True
