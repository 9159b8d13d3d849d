"""The synchronous client: blocking sockets, safe to use from several threads and after a fork."""

import socket
import threading
from collections.abc import Iterator, Sequence
from contextlib import suppress
from types import TracebackType
from typing import Any, Self

import redis.connection
from redis.backoff import NoBackoff
from redis.exceptions import RedisError
from redis.retry import Retry

from broker.connections.core import TURN_S, Core
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
    run_blocking,
    serializer,
)
from broker.connections.nodes import Gate
from broker.connections.opening import opened_address
from broker.connections.server import ServerInfo
from broker.connections.url import Address, Endpoint
from broker.operation import Operation


class Transport:
    """Sends operations to a server, a Sentinel primary or a cluster. Made by `open_transport`.

    Attributes:
        url: where it goes, without password.
        is_forked: whether this is the copy of a forked child.
    """

    def __init__(self, url: str, timeout_s: float, retry_for_s: float) -> None:
        self._address, self._embedded = opened_address(url)
        self.url = self._address.shown
        self.is_forked = False
        self._timeout_s, self._retry_for_s = timeout_s, retry_for_s
        self._reset()
        told.add(self)

    def _reset(self) -> None:
        self._core = BlockingCore(self._address, self._timeout_s, self._retry_for_s, threading.Event())

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
        return run_blocking(self._core.command(*args))

    def pipeline(self, commands: Sequence[Sequence[str | bytes | int]], at: Endpoint | None = None) -> list[Any]:
        """Sends plain commands in one round trip; raises the BrokerError of the first error reply, and as `execute`.

        They are sent again after a lost connection, so each must be harmless twice. In a cluster all go to the
        server of the first one's first argument, or to `at`.
        """
        return run_blocking(self._core.pipeline(commands, at))

    def primaries(self) -> list[Endpoint | None]:
        """The servers that together have all keys; None: the only one. Raises as `execute`."""
        return run_blocking(self._core.primaries())

    def scan(self, pattern: str) -> Iterator[str]:
        """The keys that match a glob pattern, on all primaries; one may come twice. Raises as `execute`."""
        for server in self.primaries():
            cursor = b"0"
            while True:
                page: Command = ("SCAN", cursor, "MATCH", pattern, "COUNT", 1000)
                ((cursor, names),) = run_blocking(self._core.pipeline([page], server))
                yield from (name.decode() for name in names)
                if cursor == b"0":
                    break

    def wait_marker(self, keys: Sequence[str], timeout_s: float, turn_s: float = TURN_S) -> str | None:
        """Waits for a marker (BZPOPMIN), on a connection of its own.

        Args:
            keys: the sorted sets to wait on.
            timeout_s: for how long, in seconds.
            turn_s: how long to stay with one hash slot of a cluster where the keys are in several, in seconds.

        Returns:
            The key that had one. None after the time-out, when the connection broke, or by `interrupt`.
        """
        return run_blocking(self._core.wait_marker(keys, timeout_s, turn_s))

    def wait_and_execute(
        self, keys: Sequence[str], timeout_s: float, operations: Sequence[Operation[Any]]
    ) -> list[Any] | None:
        """Waits for a marker; the server goes on with the operations at once, marker or not, in the same round trip.

        Args:
            keys: the sorted sets to wait on, all of one run.
            timeout_s: for how long, in seconds.
            operations: what to execute then.

        Returns:
            As `execute`. None when the connection broke, by `interrupt`, or where this server cannot do both at once:
            whether the operations took effect is unknown then, and `execute` sends the same ones again.
        """
        return run_blocking(self._core.wait_and_execute(keys, timeout_s, operations))

    def interrupt(self) -> None:
        """Lets the waits of other threads return None now; the next one, if none is under way."""
        self._core.interrupt()

    def server_info(self) -> ServerInfo:
        """The server's kind and version; in a cluster, of one node. Raises as `execute`."""
        return run_blocking(self._core.server_info())

    def close(self) -> None:
        """Closes the connections; calls under way in other threads end. An embedded server stops with its last user."""
        told.discard(self)
        self._core.end()
        if self._embedded is not None:
            self._embedded.release()
            self._embedded = None

    def after_fork(self) -> None:
        """In a forked child: leaves the parent's connections alone and makes its own."""
        self.is_forked = True
        self._core.abandon()
        self._reset()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class BlockingCore(Core):
    """Blocks instead of suspending."""

    async def _connected(self, endpoint: Endpoint, path: str, address: Address, timeout_s: float) -> Link:
        link = BlockingLink(endpoint, path, address, timeout_s)
        link.connect()
        return link

    def _gate(self) -> Gate | None:
        return None

    async def _until_closing(self, seconds: float) -> None:
        assert isinstance(self._closing, threading.Event), "given by `Transport`"
        self._closing.wait(seconds)


#: The one with hiredis, where that is there.
_DefaultParser: Any = redis.connection.DefaultParser


class Parser(_DefaultParser):
    """redis-py's parser, with our errors."""

    parse_error = staticmethod(parse_error)


class BlockingLink:
    """A connection that blocks. redis-py opens it and logs in; from then on its socket is used directly."""

    def __init__(self, endpoint: Endpoint, path: str, address: Address, timeout_s: float) -> None:
        self.info: ServerInfo | None = None
        self._timeout_s = timeout_s
        self._connection = new_connection(
            redis.connection,
            endpoint,
            path,
            address,
            timeout_s,
            socket_timeout=timeout_s,
            retry=Retry(NoBackoff(), 0),
            parser_class=Parser,
            command_packer=serializer,
        )
        self._reader, self._received = ReplyReader(), bytearray(READ_BYTES)

    def connect(self) -> None:
        """Connects and logs in; raises what redis-py raises."""
        try:
            self._connection.connect()
        except BaseException:
            self.abort()
            raise

    async def exchange(self, commands: Sequence[Command], wait_s: float = 0.0) -> list[Any]:
        """As `Link.exchange`."""
        replies: list[Any] = []
        missing, received, reader = len(commands), self._received, self._reader
        try:
            sock = self._socket()
            if wait_s:
                sock.settimeout(self._timeout_s + wait_s)
            for piece in in_pieces(packed(commands)):
                sock.sendall(piece)
            while len(replies) < missing:
                size = sock.recv_into(received)
                if not size:
                    raise LinkLost(CLOSED)
                reader.read(received, size, replies)
            if wait_s:
                sock.settimeout(self._timeout_s)
        except (RedisError, OSError) as error:
            raise lost(error, self._timeout_s + wait_s) from error
        return replies

    def interrupt(self) -> None:
        """As `Link.interrupt`. Not by closing, which would free the number of a socket that another thread reads."""
        with suppress(OSError, LinkLost):  # closed already
            # Of the socket below TLS, which would forget its keys under the reader.
            socket.socket.shutdown(self._socket(), socket.SHUT_RDWR)

    def abort(self) -> None:
        """As `Link.abort`. After a fork redis-py closes only the child's copy."""
        self._connection.disconnect()

    def _socket(self) -> socket.socket:
        sock: socket.socket | None = self._connection._sock  # noqa: SLF001 - redis-py keeps it to itself
        if sock is None:
            raise LinkLost(CLOSED)
        return sock
