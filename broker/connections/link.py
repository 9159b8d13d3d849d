"""One connection to one server, opened by redis-py and driven directly, and what its failures mean.

redis-py connects, speaks TLS and logs in; hiredis packs commands and parses replies. Nothing is ever sent again here:
redis-py's retries and health checks are off, and a connection that failed once is not used any more.
redis-py's own calls for sending and reading, its clients and its pools are not used: they retry, and cost several times
the server's work for a small call.
"""

import os
import socket
import ssl
from collections.abc import Callable, Coroutine, Generator, Iterable, Sequence
from functools import lru_cache
from sys import getsizeof
from typing import TYPE_CHECKING, Any, Protocol, TypeVar, cast

import hiredis
from redis.connection import PythonRespSerializer
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import InvalidResponse
from redis.exceptions import TimeoutError as RedisTimeoutError

from broker.connections.replies import ReplyError
from broker.connections.url import Address, Endpoint
from broker.errors import AuthenticationFailed, BadUrl, NotSendable

if TYPE_CHECKING:
    from broker.connections.server import ServerInfo

T = TypeVar("T")
Command = tuple[str | bytes | int, ...]

#: The most that is read from a socket at once, bytes.
READ_BYTES = 256 * 1024
#: The most that is handed to a socket at once, bytes: the time-out is for each piece, not for a whole large value.
_WRITE_BYTES = 1024 * 1024
#: From this size on, in bytes, an argument is sent from where it lies (the packer in C copies it).
_LARGE_BYTES = 16 * 1024
#: Longer commands are calls for many items, whose bytes their callers bound: none of them is looked at.
_FEW_ARGUMENTS = 16
#: What redis-py says when the other end closed the connection, and what we say.
_CLOSED = "Connection closed by server"
CLOSED = "the server closed the connection"
#: redis-py reads only the answers to logging in: bytes at once.
_LOGIN_READ_BYTES = 4 * 1024


class LinkLost(Exception):
    """The connection broke or could not be made. Whether the commands were executed is not known."""


class NotRedis(Exception):
    """The other end answers, but not in the protocol of Redis."""


class Link(Protocol):
    """One connection.

    Attributes:
        info: the server, where it is known without asking (in-process servers).
    """

    info: "ServerInfo | None"

    async def exchange(self, commands: Sequence[Command], wait_s: float = 0.0) -> list[Any]:
        """Sends commands in one piece and reads as many replies; error replies are `ReplyError` values.

        Args:
            commands: what to send.
            wait_s: how long, in seconds, the server may wait on purpose before it answers.

        Raises:
            LinkLost: the connection broke, or the server was silent for the time-out.
            NotRedis: the answer is not in the protocol of Redis.
        """
        ...

    def interrupt(self) -> None:
        """Breaks the connection from another thread or task: an exchange under way raises LinkLost."""
        ...

    def abort(self) -> None:
        """Closes the connection at once."""
        ...


def parse_error(text: str) -> Exception:
    """The exception for an error reply: whole, where redis-py's parser would cut its code off."""
    # Said to a connection that is closed next: a broken connection to redis-py, in whatever step it comes.
    return RedisConnectionError(text.removeprefix("ERR ")) if "max number of clients" in text else ReplyError(text)


def new_connection(library: Any, endpoint: Endpoint, path: str, address: Address, timeout_s: float, **own: Any) -> Any:
    """A connection of redis-py, not yet connected.

    Args:
        library: `redis.connection` or `redis.asyncio.connection`.
        endpoint: where to.
        path: of the Unix socket, "" for TCP.
        address: user, password, database, TLS.
        timeout_s: for connecting, seconds.
        own: further options.
    """
    options: dict[str, Any] = {
        "db": address.db,
        "username": address.username if address.password else None,
        "password": address.password or None,
        # Notifications of maintenance, which move a connection behind its user's back, need protocol 3.
        "protocol": 2,
        "socket_connect_timeout": timeout_s,
        "socket_read_size": _LOGIN_READ_BYTES,
        "health_check_interval": 0,
        "retry_on_timeout": False,
        "retry_on_error": [],
        **own,
    }
    if path:
        return library.UnixDomainSocketConnection(path=path, **options)
    options.update(host=endpoint.host, port=endpoint.port, socket_keepalive=True)
    if address.tls is None:
        return library.Connection(**options)
    _check_files(tuple(address.tls.get(f"ssl_{kind}") for kind in ("ca_certs", "certfile", "keyfile")), address.shown)
    return library.SSLConnection(**address.tls, **options)


class ReplyReader:
    """hiredis' parser of what a connection sends, with our errors."""

    def __init__(self) -> None:
        reader = hiredis.Reader(protocolError=InvalidResponse, replyError=parse_error, notEnoughData=_NOT_YET)
        self._feed: Callable[[Any, int, int], None] = reader.feed
        self._next: Callable[[bool], Any] = reader.gets

    def read(self, data: bytes | bytearray, size: int, replies: list[Any]) -> None:
        """Takes the first `size` bytes of `data`, and appends the replies that are whole now.

        Raises:
            InvalidResponse: this is not the protocol of Redis.
            redis.ConnectionError: the server has too many clients.
        """
        self._feed(data, 0, size)
        read = self._next
        while (reply := read(False)) is not _NOT_YET:
            if isinstance(reply, RedisConnectionError):
                raise reply
            replies.append(reply)


_NOT_YET = object()


def packed(commands: Iterable[Command]) -> list[bytes]:
    """Commands as they are sent: those with large values without copying these, the others in C, which copies."""
    parts: list[bytes] = []
    small: list[bytes] = []
    try:
        for command in commands:
            if len(command) <= _FEW_ARGUMENTS and max(map(getsizeof, command)) >= _LARGE_BYTES:
                if small:
                    parts.append(b"".join(small))
                    small = []
                parts.extend(_pack_large(*command))
            else:
                # No numbers: the packer in C looks for signals when it writes one, and crashes when a handler raises.
                small.append(_pack_small(tuple([b"%d" % a if type(a) is int else a for a in command])))
    except (TypeError, ValueError) as error:
        raise NotSendable(problem=f"an argument cannot be sent ({error})") from error
    if small:
        parts.append(small[0] if len(small) == 1 else b"".join(small))
    return parts


def _encode(argument: str | bytes | int) -> bytes:
    return argument if isinstance(argument, bytes) else str(argument).encode()


#: Packs in Python, what redis-py says to log in, too: the packer in C may get no numbers.
serializer = PythonRespSerializer(_LARGE_BYTES, _encode)
# Neither library says these types in full.
_pack_small = cast("Callable[[Command], bytes]", hiredis.pack_command)  # pyright: ignore[reportUnknownMemberType]
_pack_large = cast("Callable[..., list[bytes]]", serializer.pack)  # pyright: ignore[reportUnknownMemberType]


def in_pieces(packed: Iterable[bytes]) -> Generator[bytes | memoryview]:
    """Packed commands, in pieces of limited size."""
    for part in packed:
        if len(part) <= _WRITE_BYTES:
            yield part
        else:
            view = memoryview(part)
            yield from (view[start : start + _WRITE_BYTES] for start in range(0, len(view), _WRITE_BYTES))


@lru_cache(maxsize=8)
def _check_files(files: tuple[Any, Any, Any], url: str) -> None:
    """Reads certificates once before redis-py does, whose error would look like a failed connection."""
    ca_certs, certfile, keyfile = files
    try:
        context = ssl.create_default_context(cafile=ca_certs)
        if certfile:
            context.load_cert_chain(certfile, keyfile)
    except OSError as error:
        problem = f"its certificates ({', '.join(filter(None, files))}) cannot be read: {error.strerror or error}"
        raise BadUrl(url=url, problem=problem) from error


def lost(error: BaseException, timeout_s: float) -> LinkLost | NotRedis:
    """What an exception means that redis-py raised during an exchange."""
    cause = _cause(error)
    if isinstance(cause, InvalidResponse):
        return NotRedis(str(cause))
    if isinstance(cause, RedisTimeoutError | TimeoutError):
        return LinkLost(f"no answer for {timeout_s:g} s")
    if _CLOSED in str(cause) or str(cause) == "Connection lost":  # asyncio says it like this
        return LinkLost(CLOSED)
    if not isinstance(cause, OSError):
        return LinkLost(str(cause))
    # Without the addresses that some messages repeat.
    if cause.errno and not isinstance(cause, socket.gaierror):
        return LinkLost(os.strerror(cause.errno))
    return LinkLost(cause.strerror or str(cause))


def unreachable(error: Exception, address: Address, timeout_s: float) -> BaseException:
    """What an exception means that redis-py raised while it connected."""
    cause = _cause(error)
    if isinstance(cause, ReplyError):
        return cause
    if isinstance(cause, ssl.SSLCertVerificationError):
        return AuthenticationFailed(url=address.shown, error=f"its certificate: {cause.verify_message}")
    if isinstance(cause, ssl.SSLError):
        return NotRedis(f"no TLS there: {cause.reason or cause}")
    problem = lost(cause, timeout_s)
    if isinstance(problem, NotRedis):
        return problem
    is_silent = address.tls is not None and "no answer" in str(problem)
    return LinkLost(f"cannot connect ({problem}{': does it speak TLS?' if is_silent else ''})")


def _cause(error: BaseException) -> BaseException:
    """What redis-py wrapped into a ConnectionError of its own, if it did."""
    while isinstance(error, RedisConnectionError) and _CLOSED not in str(error):
        inner = error.__cause__ or error.__context__
        if inner is None:
            break
        error = inner
    return error


def run_blocking(coroutine: Coroutine[Any, Any, T]) -> T:
    """Finishes a coroutine of the synchronous client: its links and pauses block, so that it never suspends."""
    try:
        coroutine.send(None)
    except StopIteration as stop:
        return stop.value
    coroutine.close()
    raise RuntimeError("a coroutine of the synchronous client suspended")
