"""The synchronous client: blocking sockets, safe to use from several threads and after a fork."""

import os
import socket
import ssl
import threading
import weakref
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from types import TracebackType
from typing import Any, Self

from broker.connections.core import Core
from broker.connections.link import (
    MORE,
    Command,
    ExclusivePool,
    Link,
    LinkLost,
    Pool,
    make_reader,
    pack,
    reason,
    run_blocking,
)
from broker.connections.opening import opened_address
from broker.connections.paths import socket_path
from broker.connections.server import ServerInfo
from broker.connections.tls import tls_context, tls_failure
from broker.connections.url import Address, Endpoint
from broker.errors import ServerUnavailable
from broker.operation import Operation

_READ_BYTES = 256 * 1024
_WRITE_BYTES = 1024 * 1024


class Transport:
    """Sends operations to a server, a Sentinel primary or a cluster. Made by `open_transport`.

    Attributes:
        url: where it goes, without password.
    """

    def __init__(self, url: str, timeout_s: float, retry_for_s: float) -> None:
        self._address, self._embedded = opened_address(url)
        self.url = self._address.shown
        self._timeout_s, self._retry_for_s = timeout_s, retry_for_s
        self._reset()
        _transports.add(self)

    def _reset(self) -> None:
        self._sockets = BlockingSockets(self.url)
        self._core = Core(self._address, self._sockets, self._timeout_s, self._retry_for_s)

    def execute(self, operations: Sequence[Operation[Any]]) -> list[Any]:
        """Sends operations in one round trip (one for each server of a cluster), again if that fails.

        Returns:
            For each operation what it parsed, or the BrokerError that it failed with, not raised.

        Raises:
            ServerUnavailable: no answer for `retry_for_s`; whether the operations took effect is unknown.
            ReadOnlyServer: the server took no writes for as long.
            AuthenticationFailed, UnsupportedServer: at the first connection.
        """
        return run_blocking(self._core.execute(operations))

    def command(self, *args: str | bytes | int) -> Any:
        """Sends one plain command; raises the BrokerError of an error reply, and as `execute`."""
        return self.pipeline([args])[0]

    def pipeline(self, commands: Sequence[Sequence[str | bytes | int]]) -> list[Any]:
        """Sends plain commands in one round trip; raises the BrokerError of the first error reply, and as `execute`.

        They are sent again after a lost connection, so each must be harmless twice. In a cluster all go to the
        server of the first one's first argument.
        """
        return run_blocking(self._core.pipeline([tuple(command) for command in commands]))

    def wait_marker(self, keys: Sequence[str], timeout_s: float) -> str | None:
        """Waits for a marker (BZPOPMIN), on a connection of its own.

        Args:
            keys: the sorted sets to wait on.
            timeout_s: for how long, in seconds.

        Returns:
            The key that had one. None after the time-out, when the connection broke, or by `interrupt`.
        """
        return run_blocking(self._core.wait_marker(keys, timeout_s))

    def interrupt(self) -> None:
        """Lets the waits of other threads return None now; the next one, if none is under way."""
        self._core.interrupt()

    def server_info(self) -> ServerInfo:
        """The server's kind and version; in a cluster, of one node. Raises as `execute`."""
        return run_blocking(self._core.server_info())

    def close(self) -> None:
        """Closes the connections; calls under way in other threads end. An embedded server stops with its last user."""
        _transports.discard(self)
        self._sockets.closed.set()
        self._core.close()
        if self._embedded is not None:
            self._embedded.release()
            self._embedded = None

    def after_fork(self) -> None:
        """In a forked child: leaves the parent's connections alone and makes its own."""
        self._core.abandon()
        closed = self._sockets.closed.is_set()
        self._reset()
        if closed:
            self._sockets.closed.set()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class BlockingSockets:
    """Blocking connections and pauses."""

    def __init__(self, url: str) -> None:
        self._url = url
        self.closed = threading.Event()

    async def dial(self, endpoint: Endpoint, address: Address, timeout_s: float) -> Link:
        """As `Sockets.dial`."""
        self._refuse_when_closed()
        if address.mode == "fakeredis":
            from broker.connections.fake import FakeLink

            return FakeLink(address.path, self.pause)
        try:
            sock = (
                _connected_unix(endpoint.path, timeout_s) if endpoint.path else _connected(endpoint, address, timeout_s)
            )
        except OSError as error:
            raise LinkLost(f"cannot connect ({reason(error)})") from error
        return BlockingLink(sock, timeout_s)

    def pool(self, opened: Callable[[], Awaitable[Link]]) -> Pool:
        """As `Sockets.pool`."""
        return ExclusivePool(opened)

    async def pause(self, seconds: float) -> None:
        """As `Sockets.pause`."""
        self.closed.wait(seconds)
        self._refuse_when_closed()

    def _refuse_when_closed(self) -> None:
        if self.closed.is_set():
            raise ServerUnavailable(url=self._url, error="this client was closed")


def _connected_unix(path: str, timeout_s: float) -> socket.socket:
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        sock.settimeout(timeout_s)
        with socket_path(path) as short:
            sock.connect(short)
    except BaseException:
        sock.close()
        raise
    return sock


def _connected(endpoint: Endpoint, address: Address, timeout_s: float) -> socket.socket:
    """A TCP connection, with TLS where the URL says so."""
    context = tls_context(address)
    sock = socket.create_connection((endpoint.host, endpoint.port), timeout_s)
    try:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        return sock if context is None else context.wrap_socket(sock, server_hostname=endpoint.host)
    except BaseException as error:
        sock.close()
        if isinstance(error, ssl.SSLError):
            raise tls_failure(error, address) from error
        if isinstance(error, TimeoutError):
            raise LinkLost(f"no answer to the TLS handshake for {timeout_s:g} s: does it speak TLS?") from error
        raise


class BlockingLink:
    """A connection with a blocking socket."""

    def __init__(self, sock: socket.socket, timeout_s: float) -> None:
        self.info: ServerInfo | None = None
        self._socket = sock
        self._timeout_s = timeout_s
        self._reader = make_reader()
        self._buffer = bytearray(_READ_BYTES)

    async def exchange(self, commands: Sequence[Command], wait_s: float = 0.0) -> list[Any]:
        """As `Link.exchange`."""
        replies: list[Any] = []
        reader, buffer = self._reader, self._buffer
        try:
            if wait_s:
                self._socket.settimeout(self._timeout_s + wait_s)
            for piece in pack(commands):
                if len(piece) <= _WRITE_BYTES:
                    self._socket.sendall(piece)
                    continue
                # The time-out is for each call: a large piece over a slow network gets several.
                with memoryview(piece) as view:
                    for start in range(0, len(view), _WRITE_BYTES):
                        self._socket.sendall(view[start : start + _WRITE_BYTES])
            for _ in commands:
                while (reply := reader.gets()) is MORE:
                    size = self._socket.recv_into(buffer)
                    if not size:
                        raise LinkLost("the server closed the connection")
                    reader.feed(buffer, 0, size)  # pyright: ignore[reportArgumentType] - takes any buffer
                replies.append(reply)
            if wait_s:
                self._socket.settimeout(self._timeout_s)
        except TimeoutError as error:
            raise LinkLost(f"no answer for {self._timeout_s + wait_s:g} s") from error
        except OSError as error:
            raise LinkLost(reason(error)) from error
        return replies

    def interrupt(self) -> None:
        """As `Link.interrupt`. Not by closing, which would free the number of a socket that another thread reads."""
        with suppress(OSError):
            # Of the socket below TLS, which would forget its keys under the reader.
            socket.socket.shutdown(self._socket, socket.SHUT_RDWR)

    def abort(self) -> None:
        """As `Link.abort`."""
        self._socket.close()


_transports: "weakref.WeakSet[Transport]" = weakref.WeakSet()


def _after_fork() -> None:
    for transport in list(_transports):
        transport.after_fork()


os.register_at_fork(after_in_child=_after_fork)
