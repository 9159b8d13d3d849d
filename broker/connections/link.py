"""One connection to one server, and pools of them: what the synchronous and the asyncio client have in common.

Everything above the sockets is written once, as coroutines. The asyncio client awaits them. The synchronous client has
links and pauses that block instead of suspending: its coroutines never suspend, and `run_blocking` finishes them.
"""

import os
import socket
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from typing import TYPE_CHECKING, Any, Protocol, TypeVar, cast

from hiredis import Reader, pack_command  # pyright: ignore[reportUnknownVariableType] - returns bytes

from broker.connections.replies import ReplyError

if TYPE_CHECKING:
    from broker.connections.server import ServerInfo

T = TypeVar("T")
Argument = str | bytes | int
Command = tuple[Argument, ...]

#: From this size on, in bytes, an argument is sent from where it lies instead of being copied into the command.
LARGE_BYTES = 32 * 1024
#: What the reply parser says when it wants more bytes.
MORE: Any = object()

_pack = cast("Callable[[Command], bytes]", pack_command)


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


class Pool(Protocol):
    """The connections to one server for one purpose."""

    async def exchange(self, commands: Sequence[Command], wait_s: float = 0.0) -> list[Any]:
        """As `Link.exchange`, on one of the connections, which is opened when there is none."""
        ...

    def interrupt(self) -> bool:
        """Breaks the connections that are waiting for replies; says whether there was one."""
        ...

    def drop(self) -> None:
        """Closes the connections; those that are in use when they are given back."""
        ...


class ExclusivePool:
    """Connections of which each carries one exchange at a time.

    Args:
        opened: opens one.
        interrupted: whether exchanges are to fail now. Who sets it calls `interrupt` afterwards: an exchange that has
            not begun by then sees it.
    """

    def __init__(self, opened: Callable[[], Awaitable[Link]], interrupted: Callable[[], bool] = lambda: False) -> None:
        self._opened = opened
        self._interrupted = interrupted
        self._idle: deque[Link] = deque()
        self._busy: set[Link] = set()
        self._generation = 0

    async def exchange(self, commands: Sequence[Command], wait_s: float = 0.0) -> list[Any]:
        """As `Pool.exchange`."""
        generation = self._generation
        try:
            link = self._idle.pop()
        except IndexError:
            link = await self._opened()
        self._busy.add(link)
        if self._interrupted():
            link.interrupt()
        try:
            replies = await link.exchange(commands, wait_s)
        except BaseException:
            link.abort()
            raise
        finally:
            self._busy.discard(link)
        if generation == self._generation:
            self._idle.append(link)
        else:
            link.abort()
        return replies

    def interrupt(self) -> bool:
        """As `Pool.interrupt`."""
        busy = list(self._busy)
        for link in busy:
            link.interrupt()
        return bool(busy)

    def drop(self) -> None:
        """As `Pool.drop`."""
        self._generation += 1
        while self._idle:
            self._idle.pop().abort()


def make_reader() -> Reader:
    """A reply parser: bytes stay bytes, error replies become values, `MORE` means that bytes are missing."""
    return Reader(protocolError=NotRedis, replyError=ReplyError, errors="replace", notEnoughData=MORE)


def reason(error: OSError) -> str:
    """What went wrong, without the addresses that some messages repeat."""
    if isinstance(error, socket.gaierror) or not error.errno:
        return error.strerror or str(error)
    return os.strerror(error.errno)


def pack(commands: Sequence[Command]) -> list[bytes]:
    """Commands as pieces to send one after the other; large arguments are pieces of their own and not copied."""
    pieces: list[bytes] = []
    small: list[bytes] = []
    for command in commands:
        for argument in command:
            if not isinstance(argument, int) and len(argument) >= LARGE_BYTES:
                _pack_large(command, small, pieces)
                break
        else:
            small.append(_pack(command))
    if small:
        pieces.append(b"".join(small))
    return pieces


def _pack_large(command: Command, small: list[bytes], pieces: list[bytes]) -> None:
    """Packs a command that has large arguments; `small` collects the bytes between them."""
    small.append(b"*%d\r\n" % len(command))
    for argument in command:
        data = argument if isinstance(argument, bytes) else str(argument).encode()
        size = len(data)
        small.append(b"$%d\r\n" % size)
        if size >= LARGE_BYTES:
            pieces.append(b"".join(small))
            pieces.append(data)
            small.clear()
        else:
            small.append(data)
        small.append(b"\r\n")


def run_blocking(coroutine: Coroutine[Any, Any, T]) -> T:
    """Finishes a coroutine that never suspends."""
    try:
        coroutine.send(None)
    except StopIteration as stop:
        return stop.value
    coroutine.close()
    raise RuntimeError("a coroutine of the synchronous client suspended")
