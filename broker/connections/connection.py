"""One connection to one server: what both clients need to open it, to send commands and to read replies.

hiredis packs commands and parses replies. Nothing is ever sent again here: a connection that failed once is not used
any more. redis-py is not used for this. Its clients and connections send again by themselves and wrap errors until
their reasons are lost; they cost several times the server's work for a small call.
"""

from collections.abc import Callable, Coroutine, Generator, Iterable, Sequence
from sys import getsizeof
from typing import TYPE_CHECKING, Any, Protocol, TypeVar, cast

import hiredis
from redis.connection import PythonRespSerializer

from broker.connections.error_reply import ErrorReply
from broker.connections.failures import CROWDED, GARBLED, TOO_LARGE, Failure
from broker.errors import NotSendable

if TYPE_CHECKING:
    from broker.connections.server import ServerInfo

T = TypeVar("T")
RedisCommand = tuple[str | bytes | int, ...]

#: The most that is read from a socket at once, bytes.
READ_BYTES = 256 * 1024
#: The most that is handed to a socket at once, bytes: the time-out is for each chunk, not for a whole large value.
_WRITE_BYTES = 1024 * 1024
#: To send more than this, in bytes, may take longer than a server may be silent.
MUCH_BYTES = _WRITE_BYTES
#: From this size on, in bytes, an argument is sent from where it lies (the packer in C copies it).
_LARGE_BYTES = 16 * 1024
#: Longer commands are calls for many items, whose bytes their callers bound: none of them is looked at.
_FEW_ARGUMENTS = 16


class Connection(Protocol):
    """One connection.

    Attributes:
        info: the server, where it is known without asking (in-process servers).
    """

    info: "ServerInfo | None"

    async def exchange(self, commands: Sequence[RedisCommand], wait_s: float = 0.0) -> list[Any]:
        """Sends commands in one chunk and reads as many replies; error replies are `ErrorReply` values.

        Args:
            commands: what to send.
            wait_s: how long, in seconds, the server may wait on purpose before it answers.

        Raises:
            Failure: the connection broke, the server was silent for the time-out, or answered not as Redis does.
        """
        ...

    def be_patient(self, timeout_s: float) -> None:
        """From now on the server may be silent for so long, in seconds."""
        ...

    def interrupt(self) -> None:
        """Breaks the connection from another thread or task: an exchange under way raises Failure."""
        ...

    def abort(self) -> None:
        """Closes the connection at once."""
        ...


def login(user: str, password: str, db: int) -> list[RedisCommand]:
    """What is sent ahead of everything else on a new connection. A user without password may need none (`nopass`)."""
    commands: list[RedisCommand] = []
    if user:
        commands.append(("AUTH", user, password))
    elif password:
        commands.append(("AUTH", password))
    if db:
        commands.append(("SELECT", db))
    return commands


def parse_error(text: str) -> Exception:
    """An error reply as an exception; those that are said to a connection that is closed next are a Failure."""
    if "max number of clients" in text:
        return Failure(CROWDED, f"it has no place for another client (maxclients): {text.removeprefix('ERR ')}")
    if text.startswith("ERR Protocol error"):
        return Failure(
            TOO_LARGE,
            f"the server refuses the bytes of a call: {text.removeprefix('ERR ')} (its settings proto-max-bulk-len and "
            "client-query-buffer-limit say how many it takes)",
        )
    return ErrorReply(text)


class ReplyReader:
    """hiredis' parser of what a connection sends, with our errors."""

    def __init__(self) -> None:
        reader = hiredis.Reader(protocolError=_Garbled, replyError=parse_error, notEnoughData=_NOT_YET)
        self._feed: Callable[[Any, int, int], None] = reader.feed
        self._next: Callable[[bool], Any] = reader.gets

    def read(self, data: bytes | bytearray, size: int, replies: list[Any]) -> None:
        """Takes the first `size` bytes of `data`, and appends the replies that are whole now.

        Raises:
            Failure: this is not the protocol of Redis, or the server says why it closes the connection.
        """
        self._feed(data, 0, size)
        read = self._next
        while (reply := read(False)) is not _NOT_YET:
            if isinstance(reply, Failure):
                raise reply
            replies.append(reply)


_NOT_YET = object()


class _Garbled(Failure):
    """Made by hiredis, of a text."""

    def __init__(self, text: str) -> None:
        super().__init__(GARBLED, f"what it answers is not the protocol of Redis: {text}")


def packed(commands: Iterable[RedisCommand]) -> list[bytes]:
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
_pack_small = cast("Callable[[RedisCommand], bytes]", hiredis.pack_command)  # pyright: ignore[reportUnknownMemberType]
_pack_large = cast("Callable[..., list[bytes]]", serializer.pack)  # pyright: ignore[reportUnknownMemberType]


def in_chunks(packed: Iterable[bytes]) -> Generator[bytes | memoryview]:
    """Packed commands, in chunks of limited size."""
    for part in packed:
        if len(part) <= _WRITE_BYTES:
            yield part
        else:
            view = memoryview(part)
            yield from (view[start : start + _WRITE_BYTES] for start in range(0, len(view), _WRITE_BYTES))


def run_blocking(coroutine: Coroutine[Any, Any, T]) -> T:
    """Finishes a coroutine of a blocking client: its connections and pauses block, so that it never suspends."""
    try:
        coroutine.send(None)
    except StopIteration as stop:
        return stop.value
    coroutine.close()
    raise RuntimeError("a coroutine of the synchronous client suspended")
