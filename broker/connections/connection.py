"""One connection to one server: what both clients need to open it, to send commands and to read replies.

hiredis packs commands and parses replies. This module never sends again: a connection that failed once is not used
any more. redis-py is not used for this. Its clients and connections send again by themselves, and their errors hide
the reasons. For a small call they cost several times the server's work.
"""

from collections.abc import Callable, Generator, Iterable, Sequence
from sys import getsizeof
from typing import TYPE_CHECKING, Any, Protocol, cast

import hiredis
from redis.connection import PythonRespSerializer

from broker.connections.error_reply import ErrorReply
from broker.connections.failures import CROWDED, GARBLED, TOO_LARGE, Failure
from broker.errors import NotSendable

if TYPE_CHECKING:
    from broker.connections.server_info import ServerInfo

RedisCommand = tuple[str | bytes | int, ...]

#: The most that is read from a socket at once, bytes.
READ_BYTES = 256 * 1024
#: The most that is handed to a socket at once, bytes: the time-out is for each chunk, not for a whole large value.
_WRITE_BYTES = 1024 * 1024
#: To send more than this, in bytes, may take longer than a server may be silent.
MUCH_BYTES = _WRITE_BYTES
#: From this size on, in bytes, an argument is sent without a copy (the packer in C copies).
_LARGE_BYTES = 16 * 1024
#: Commands with more arguments than this are calls for many small items: their sizes are not looked at.
_FEW_ARGUMENTS = 16


class Connection(Protocol):
    """One connection.

    Attributes:
        info: the server, if it is known without asking (in-process servers).
        until: the moment, on the monotonic clock, at which another connection is to take its place.
    """

    info: "ServerInfo | None"
    until: float

    async def exchange(self, commands: Sequence[RedisCommand], wait_s: float = 0.0) -> list[Any]:
        """Sends commands together and reads one reply for each; error replies are `ErrorReply` values.

        Args:
            commands: what to send.
            wait_s: how long, in seconds, the server may wait on purpose before it answers.

        Raises:
            Failure: the connection broke, the server was silent for the time-out, or does not speak Redis's protocol.
        """
        ...

    def be_patient(self, timeout_s: float) -> None:
        """Sets how long the server may be silent from now on, seconds."""
        ...

    def interrupt(self) -> None:
        """Breaks the connection from another thread or task: an exchange under way raises Failure."""
        ...

    def abort(self) -> None:
        """Closes the connection at once."""
        ...


def login(user: str, password: str, db: int) -> list[RedisCommand]:
    """The first commands of a new connection. A user without password may need no login (`nopass`)."""
    commands: list[RedisCommand] = []
    if user:
        commands.append(("AUTH", user, password))
    elif password:
        commands.append(("AUTH", password))
    if db:
        commands.append(("SELECT", db))
    return commands


def parse_error(text: str) -> Exception:
    """An error reply as a value. Errors after which the server closes the connection raise a Failure."""
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
    """hiredis' parser of a server's bytes, with our errors."""

    def __init__(self) -> None:
        reader = hiredis.Reader(protocolError=_Garbled, replyError=parse_error, notEnoughData=_NOT_YET)
        self._feed: Callable[[Any, int, int], None] = reader.feed
        self._next: Callable[[bool], Any] = reader.gets

    def read(self, data: bytes | bytearray, size: int, replies: list[Any]) -> None:
        """Reads the first `size` bytes of `data`, and appends the replies that are complete now.

        Raises:
            Failure: the bytes are not Redis's protocol, or the server says why it closes the connection.
        """
        self._feed(data, 0, size)
        read = self._next
        while (reply := read(False)) is not _NOT_YET:
            if isinstance(reply, Failure):
                raise reply
            replies.append(reply)


_NOT_YET = object()


class _Garbled(Failure):
    """hiredis makes it of a text."""

    def __init__(self, text: str) -> None:
        super().__init__(GARBLED, f"what it answers is not the protocol of Redis: {text}")


def packed(commands: Iterable[RedisCommand]) -> list[bytes | memoryview]:
    """The bytes of commands, in chunks of limited size.

    Large values are not copied; commands without such values are packed in C.
    """
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
                # No numbers: the packer in C checks for signals at each, and crashes when a signal handler raises.
                small.append(_pack_small(tuple([b"%d" % a if type(a) is int else a for a in command])))
    except (TypeError, ValueError) as error:
        raise NotSendable(problem=f"an argument cannot be sent ({error})") from error
    if small:
        parts.append(small[0] if len(small) == 1 else b"".join(small))
    return list(_in_chunks(parts)) if max(map(len, parts), default=0) > _WRITE_BYTES else [*parts]


def _encode(argument: str | bytes | int) -> bytes:
    return argument if isinstance(argument, bytes) else str(argument).encode()


#: Packs in Python. It also packs redis-py's login commands, which may hold numbers that the packer in C must not get.
serializer = PythonRespSerializer(_LARGE_BYTES, _encode)
# Neither library declares these types in full.
_pack_small = cast("Callable[[RedisCommand], bytes]", hiredis.pack_command)  # pyright: ignore[reportUnknownMemberType]
_pack_large = cast("Callable[..., list[bytes]]", serializer.pack)  # pyright: ignore[reportUnknownMemberType]


def _in_chunks(parts: Iterable[bytes]) -> Generator[bytes | memoryview]:
    for part in parts:
        if len(part) <= _WRITE_BYTES:
            yield part
        else:
            view = memoryview(part)
            yield from (view[start : start + _WRITE_BYTES] for start in range(0, len(view), _WRITE_BYTES))
