"""One client's connection, for uvicorn: the headers of its requests have to arrive in time, and within bounds.

`httptools` parses in C, and costs a third of `h11`. Where it is not installed, `h11` parses, which uvicorn brings.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, cast

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

if TYPE_CHECKING:
    from collections.abc import Callable

#: How long the headers of a request may take to arrive, seconds.
HEADERS_WITHIN_S = 10.0
#: The most bytes of a request beside those of its body: its headers, and the frames of a chunked body, which may take
#: as much again as the body.
HEADERS_BYTES = 64 * 1024
#: The most bytes of an answer that are copied to be sent together with the bytes ahead of them.
_JOINED_BYTES = 64 * 1024


class _Deadline:
    """Closes a connection when the headers of a request do not arrive in time.

    Args:
        loop: the event loop.
        close: closes the connection.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, close: Callable[[], None]) -> None:
        self._loop, self._close = loop, close
        self._overdue: asyncio.TimerHandle | None = None

    def begin(self) -> None:
        """Waits for headers."""
        if self._overdue is None:  # bytes that trickle in do not prolong the wait
            self._overdue = self._loop.call_later(HEADERS_WITHIN_S, self._close)

    def end(self) -> None:
        """Waits no more."""
        if self._overdue is not None:
            self._overdue.cancel()
            self._overdue = None


class _Joined(asyncio.Transport):
    """Sends the headers of an answer together with its body. uvicorn writes them one after the other.

    Each write is a packet of its own, which costs as much as the parser, and wakes a client that then waits again.

    Args:
        transport: the connection.
        loop: the event loop.
    """

    def __init__(self, transport: asyncio.Transport, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__()
        self._transport, self._loop = transport, loop
        self._kept: bytes | None = None

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """Sends the second bytes of each two with the first ones; first ones that nothing follows are sent, too."""
        if not data:
            return
        if self._kept is None:
            self._kept = bytes(data)
            self._loop.call_soon(self._send)
        elif len(data) <= _JOINED_BYTES:
            kept, self._kept = self._kept, None
            self._transport.write(kept + data)
        else:
            self._send()
            self._transport.write(data)

    def _send(self) -> None:
        """Sends what is kept."""
        if self._kept is not None:
            kept, self._kept = self._kept, None
            self._transport.write(kept)

    def close(self) -> None:
        """Closes the connection after what was written."""
        self._send()
        self._transport.close()

    def is_closing(self) -> bool:
        """Whether it is being closed."""
        return self._transport.is_closing()

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        """As of the connection."""
        return self._transport.get_extra_info(name, default)

    def pause_reading(self) -> None:
        """As of the connection."""
        self._transport.pause_reading()

    def resume_reading(self) -> None:
        """As of the connection."""
        self._transport.resume_reading()


class _Timed(asyncio.Protocol):
    """A connection that waits for headers from its beginning to its end; a parser's class says when they are there."""

    loop: asyncio.AbstractEventLoop
    _deadline: _Deadline

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Waits for the first request."""
        joined = _Joined(cast("asyncio.Transport", transport), self.loop)  # uvloop's have another base class
        super().connection_made(joined)
        self._deadline = _Deadline(self.loop, joined.close)
        self._deadline.begin()

    def connection_lost(self, exc: Exception | None) -> None:
        """Forgets the connection."""
        self._deadline.end()
        super().connection_lost(exc)


class H11Connection(_Timed, H11Protocol):
    """A connection whose requests `h11` parses. It bounds the bytes of headers by itself."""

    def data_received(self, data: bytes) -> None:
        """Takes bytes that arrived."""
        super().data_received(data)
        if self.conn.their_state is h11.IDLE:  # a request has begun, and its headers have not ended
            self._deadline.begin()
        else:
            self._deadline.end()


def _connection() -> Any:
    try:
        from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
    except ImportError:
        return H11Connection

    class HttpToolsConnection(_Timed, HttpToolsProtocol):
        """A connection whose requests `httptools` parses."""

        _in_headers = True
        _beside_body = 0

        def on_message_begin(self) -> None:
            """A request begins. The piece of bytes with its first one is not counted: it is bounded by itself."""
            super().on_message_begin()
            self._in_headers, self._beside_body = True, 0

        def on_headers_complete(self) -> None:
            """The headers have ended."""
            super().on_headers_complete()
            self._in_headers = False

        def on_body(self, body: bytes) -> None:
            """Takes bytes of a body."""
            super().on_body(body)
            self._beside_body -= 2 * len(body)

        def data_received(self, data: bytes) -> None:
            """Takes bytes that arrived."""
            self._beside_body += len(data)
            super().data_received(data)
            if self._beside_body > HEADERS_BYTES and not self.transport.is_closing():
                self.transport.close()
            if self._in_headers or self.cycle.response_complete:  # after an answer, too: bytes go on to arrive
                self._deadline.begin()
            else:
                self._deadline.end()

    return HttpToolsConnection


#: The connections of a server.
CONNECTION: type[asyncio.Protocol] = _connection()
