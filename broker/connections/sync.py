"""The blocking transport: safe to use from several threads and after a fork."""

import math
import os
import socket
import ssl
import threading
import time
from collections.abc import Awaitable, Callable, Coroutine, Iterator, Sequence
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
from broker.connections.interrupts import shorten
from broker.connections.resolve import opened_address
from broker.connections.server import Limiter
from broker.connections.server_info import ServerInfo
from broker.connections.url import Address
from broker.connections.wake_markers import TURN_S
from broker.errors import BadArgument
from broker.protocol.script_call import ScriptCall
from broker.values.hooks import check_plain_hook, plain_answer

T = TypeVar("T")

_IN_CALL = (
    "a signal handler may not make a call of a client in the middle of another: let it set a flag that the loop "
    "looks at"
)


def run_blocking(call: Coroutine[Any, Any, T]) -> T:
    """Makes a call of a blocking client. Its connections and pauses block, so the coroutine never suspends."""
    try:
        call.send(None)
    except StopIteration as stop:
        return stop.value
    except KeyboardInterrupt as error:
        shorten(error)
        raise
    call.close()
    raise RuntimeError("a coroutine of the synchronous client suspended")


class Transport:
    """Sends script calls to a server, a Sentinel primary or a cluster. Made by `open_transport`.

    Attributes:
        url: the server's URL, without password.
        io: the same calls as coroutines that never suspend, for `run_blocking`.
    """

    def __init__(
        self, url: str, timeout_s: float, retry_for_s: float, credentials: Credentials | None = None, name: str = ""
    ) -> None:
        check_plain_hook("credentials", credentials)
        address, self._embedded = opened_address(url)
        self.url = address.shown
        self.io = BlockingTransport(address, timeout_s, retry_for_s, threading.Event(), credentials, name)
        told.add(self)

    @property
    def is_forked(self) -> bool:
        """Whether this is the copy of a forked child."""
        return self.io.is_forked

    def execute(self, calls: Sequence[ScriptCall[Any]]) -> list[Any]:
        """Sends script calls in one round trip (one for each server of a cluster), and again if the round trip fails.

        Returns:
            For each script call its value, or its BrokerError, not raised.

        Raises:
            ServerUnavailable: no answer for `retry_for_s`; whether the script calls took effect is unknown.
            ReadOnlyServer: the server took no writes for that time.
            AuthenticationFailed, UnsupportedServer: at the first connection.
        """
        return run_blocking(self.io.execute(calls))

    def execute_each(self, calls: Sequence[ScriptCall[Any]], patience_s: float = math.inf) -> list[Any]:
        """As `execute`, where some of several servers may be away: their calls have the error as result, not raised.

        Args:
            calls: the script calls.
            patience_s: how long to try where that is shorter than `retry_for_s`, seconds. Then the caller says what
                failed.
        """
        return run_blocking(self.io.execute_each(calls, patience_s))

    def command(self, *args: str | bytes | int) -> Any:
        """Sends one plain command; raises the BrokerError of an error reply, and what `execute` raises."""
        return run_blocking(self.io.command(*args))

    def pipeline(self, commands: Sequence[Sequence[str | bytes | int]], at: Endpoint | None = None) -> list[Any]:
        """Sends plain commands in one round trip; raises the BrokerError of the first error reply, or as `execute`.

        After a lost connection the commands are sent again: each must be harmless twice. In a cluster all go to the
        server of the first command's first argument, or to `at`.
        """
        return run_blocking(self.io.pipeline(commands, at))

    def primaries(self) -> list[Endpoint | None]:
        """The servers that together have all keys; None stands for the only server. Raises as `execute`."""
        return run_blocking(self.io.primaries())

    def fetch(self, keys: Sequence[str]) -> list[bytes | None]:
        """The values of keys of one run, None for one that is not there; raises as `command`.

        If the server closes the connection in the middle of a large answer, smaller answers are asked for.
        """
        return run_blocking(self.io.fetch(keys))

    def scan(self, pattern: str) -> Iterator[str]:
        """The keys that match a glob pattern, on all primaries; one may come twice. Raises as `execute`."""
        for server in self.primaries():
            cursor = b"0"
            while True:
                page: RedisCommand = ("SCAN", cursor, "MATCH", pattern, "COUNT", 1000)
                ((cursor, names),) = run_blocking(self.io.pipeline([page], server))
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
            The key that had a marker. None after the time-out, when the connection broke, or by `interrupt`.
        """
        return run_blocking(self.io.wait_marker(keys, timeout_s, turn_s))

    def wait_and_execute(
        self, keys: Sequence[str], timeout_s: float, calls: Sequence[ScriptCall[Any]]
    ) -> list[Any] | None:
        """Waits for a marker; then, marker or not, the server executes script calls in the same round trip.

        Args:
            keys: the sorted sets to wait on, all of one run.
            timeout_s: for how long, in seconds.
            calls: the script calls.

        Returns:
            As `execute`. None when the connection broke, by `interrupt`, or if the server cannot do both at once. It is
            then unknown whether the script calls took effect; `execute` may send them again.
        """
        return run_blocking(self.io.wait_and_execute(keys, timeout_s, calls))

    def interrupt(self) -> None:
        """Makes the waits of other threads return None now; if none is under way, the next wait does."""
        self.io.interrupt()

    def server_info(self) -> ServerInfo:
        """The server's kind and version; in a cluster, of one node. Raises as `execute`."""
        return run_blocking(self.io.server_info())

    def close(self) -> None:
        """Closes the connections; calls under way in other threads end. An embedded server stops with its last user."""
        told.discard(self)
        self.io.end()
        if self._embedded is not None:
            self._embedded.release()
            self._embedded = None

    def after_fork(self) -> None:
        """In a forked child: makes new connections, and leaves the parent's alone."""
        self.io.after_fork()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class BlockingTransport(BaseTransport):
    """Blocks instead of suspending.

    Attributes:
        is_forked: whether this is the copy of a forked child.
    """

    is_forked = False

    def after_fork(self) -> None:
        """In a forked child: closes its copies of the parent's connections; later calls open new ones."""
        self.is_forked, self._closing = True, threading.Event()
        for server in list(self._servers.values()):
            server.drop()
        self._forget_servers()

    def turn(self) -> "ThreadTurn":
        """As `BaseTransport.turn`."""
        return ThreadTurn(self)

    def detached(self, call: Coroutine[Any, Any, T]) -> Callable[[], Awaitable[T]]:
        """As `BaseTransport.detached`, in a thread."""
        done, _ = in_background(lambda: run_blocking(call), "broker-call")

        async def answer() -> T:
            return done.result()

        return answer

    async def ask(self, name: str, hook: Callable[..., Any], *given: Any, **named: Any) -> Any:
        """As `BaseTransport.ask`. Raises BadArgument if the answer would have to be awaited."""
        return plain_answer(name, hook, hook(*given, **named))

    async def blocking(self, call: Callable[[], T]) -> T:
        """As `BaseTransport.blocking`."""
        return call()

    async def _connected(self, endpoint: Endpoint, path: str, address: Address, timeout_s: float) -> Connection:
        connection = BlockingConnection(endpoint, path, address, timeout_s)
        connection.connect()
        return connection

    def _limiter(self) -> Limiter | None:
        return None

    async def _until_closing(self, seconds: float) -> None:
        assert isinstance(self._closing, threading.Event), "given by `Transport`"
        self._closing.wait(seconds)


class ThreadTurn:
    """A lock of threads that refuses a wait which would never end.

    Args:
        io: the client whose calls are made one after the other.
    """

    def __init__(self, io: BlockingTransport) -> None:
        self._io, self._lock = io, threading.Lock()
        self._owner = 0  # the thread whose turn it is

    @property
    def is_taken(self) -> bool:
        """Whether a call is under way."""
        return self._lock.locked()

    async def take(self, call: Callable[[], Awaitable[T]]) -> T:
        """As `Turn.take`. Raises BadArgument in a forked child, and within a call of the same thread."""
        if self._io.is_forked:
            raise BadArgument(problem=FORKED)
        if self._owner == (me := threading.get_ident()):
            raise BadArgument(problem=_IN_CALL)
        with self._lock:  # no signal handler runs from here until the owner is noted
            self._owner = me
            try:
                return await call()
            finally:
                self._owner = 0


class BlockingConnection:
    """A connection that blocks."""

    def __init__(self, endpoint: Endpoint, path: str, address: Address, timeout_s: float) -> None:
        self.info: ServerInfo | None = None
        self.until = math.inf
        self._endpoint, self._path, self._address, self._timeout_s = endpoint, path, address, timeout_s
        self._sock: socket.socket | None = None
        self._owner = os.getpid()
        self._reader, self._received = ReplyReader(), bytearray(READ_BYTES)

    def connect(self) -> None:
        """Connects, with TLS where the address says so; raises Failure."""
        context = self._address.tls and self._address.tls.context()
        try:
            self._sock = _connected(self._endpoint, self._path, context, self._timeout_s)
        except (OSError, UnicodeError) as error:
            raise of_connecting(
                error, path=self._path, is_tls=context is not None, timeout_s=self._timeout_s
            ) from error

    async def exchange(self, commands: Sequence[RedisCommand], wait_s: float = 0.0) -> list[Any]:
        """As `Connection.exchange`."""
        replies: list[Any] = []
        missing, received, reader, size, answered = len(commands), self._received, self._reader, 0, 0
        chunks = packed(commands)
        try:
            if (sock := self._sock) is None:
                raise closed(0)
            if wait_s:
                sock.settimeout(self._timeout_s + wait_s)
            try:
                for chunk in chunks:
                    sock.sendall(chunk)
            except ConnectionError:
                # A server that refuses the bytes of a call says why before it closes.
                reader.read(received, sock.recv_into(received), replies)
                raise
            while len(replies) < missing:
                size = sock.recv_into(received)
                if not size:
                    raise closed(answered)
                answered += size
                reader.read(received, size, replies)
            if wait_s:
                sock.settimeout(self._timeout_s)
        except OSError as error:
            moved = answered > 0 or sum(map(len, chunks)) > MUCH_BYTES
            raise of_exchange(error, self._timeout_s + wait_s, moved=moved) from error
        return replies

    def be_patient(self, timeout_s: float) -> None:
        """As `Connection.be_patient`."""
        self._timeout_s = timeout_s
        self._open().settimeout(timeout_s)

    def interrupt(self) -> None:
        """As `Connection.interrupt`. Closing would free the file descriptor of a socket that another thread reads."""
        sock = self._sock
        if sock is not None:
            _shut_down(sock)

    def abort(self) -> None:
        """As `Connection.abort`. After a fork only the child's copy is closed."""
        sock, self._sock = self._sock, None
        if sock is not None:
            if os.getpid() == self._owner:
                _shut_down(sock)
            sock.close()

    def _open(self) -> socket.socket:
        if self._sock is None:
            raise closed(0)
        return self._sock


def _connected(endpoint: Endpoint, path: str, tls: ssl.SSLContext | None, timeout_s: float) -> socket.socket:
    """A connected socket, after the TLS handshake if there is one; all within the time-out."""
    until = time.monotonic() + timeout_s
    places: list[tuple[int, Any]] = [(socket.AF_UNIX, path)]
    if not path:
        found = socket.getaddrinfo(endpoint.host, endpoint.port, type=socket.SOCK_STREAM)
        places = [(family, place) for family, _, _, _, place in found]
    failed: OSError | None = None
    for i, (family, place) in enumerate(places):
        sock = socket.socket(family, socket.SOCK_STREAM)
        try:
            # A silent address leaves time for the other addresses.
            sock.settimeout(_left_s(until) / (len(places) - i))
            if not path:
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
            sock.connect(place)
            if tls is not None:
                sock.settimeout(_left_s(until))
                sock = tls.wrap_socket(sock, server_hostname=endpoint.host)
            sock.settimeout(timeout_s)
        except OSError as error:
            sock.close()
            failed = failed or error
        except BaseException:
            sock.close()
            raise
        else:
            return sock
    assert failed is not None, "a host has an address, or the resolver raised"
    raise failed


def _left_s(until: float) -> float:
    """Seconds until a moment, always above 0: with 0 a socket would not wait at all."""
    return max(0.01, until - time.monotonic())


def _shut_down(sock: Any) -> None:
    """Ends a connection while another thread reads from it.

    TLS's own shutdown would remove the keys that the reader uses, so the socket below is shut down. Sockets of
    eventlet and gevent are of other classes, which have their own method.
    """
    with suppress(OSError):  # closed already
        if isinstance(sock, socket.SocketType):
            socket.SocketType.shutdown(sock, socket.SHUT_RDWR)
        else:
            sock.shutdown(socket.SHUT_RDWR)
