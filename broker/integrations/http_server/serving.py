"""Serves an application with uvicorn, in the foreground or beside a trainer."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Generator
from typing import TYPE_CHECKING

import h11
import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from broker.connections import END_WITHIN_S

if TYPE_CHECKING:
    from starlette.types import ASGIApp

#: How long requests under way may take to end when the server stops, seconds.
STOP_WITHIN_S = int(END_WITHIN_S)
#: How long the headers of a request may take to arrive, seconds.
HEADERS_WITHIN_S = 10.0


class _Quiet(uvicorn.Server):
    """A server that leaves the process's signals to its caller."""

    @contextlib.contextmanager
    def capture_signals(self) -> Generator[None]:
        """Captures no signals."""
        yield


class _Connection(H11Protocol):
    """One client's connection. It is closed when the headers of a request do not arrive in time."""

    _overdue: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Waits for the first request."""
        super().connection_made(transport)
        self._expect_headers()

    def data_received(self, data: bytes) -> None:
        """Takes bytes that arrived."""
        super().data_received(data)
        if self.conn.their_state is h11.IDLE:  # a request has begun, and its headers have not ended
            self._expect_headers()
        else:
            self._stop_waiting()

    def connection_lost(self, exc: Exception | None) -> None:
        """Forgets the connection."""
        self._stop_waiting()
        super().connection_lost(exc)

    def _expect_headers(self) -> None:
        if self._overdue is None:  # bytes that trickle in do not prolong the wait
            self._overdue = self.loop.call_later(HEADERS_WITHIN_S, self.transport.close)

    def _stop_waiting(self) -> None:
        if self._overdue is not None:
            self._overdue.cancel()
            self._overdue = None


class Listener:
    """A socket that listens, and its server.

    Args:
        host: address to listen on.
        port: port; 0: any that is free.

    Raises:
        OSError: the address cannot be listened on.
    """

    def __init__(self, host: str, port: int) -> None:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        # asyncio switches off Nagle's algorithm only if the socket names its protocol; `create_server` names none.
        # Without that, the second half of each small answer waits 40 ms for an acknowledgement of the first.
        self._socket = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
        try:
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if family == socket.AF_INET6:  # an IPv6 address does not listen on IPv4
                self._socket.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            self._socket.bind((host, port))
            self._socket.listen(2048)
        except BaseException:
            self._socket.close()
            raise
        self.host: str = host
        self.port: int = self._socket.getsockname()[1]
        self._server: _Quiet | None = None
        self._serving: asyncio.Task[None] | None = None

    @property
    def endpoint(self) -> str:
        """The URL to give to clients."""
        return f"http://[{self.host}]:{self.port}" if ":" in self.host else f"http://{self.host}:{self.port}"

    async def start(self, app: ASGIApp) -> None:
        """Serves an application from now on."""
        config = uvicorn.Config(
            app,
            http=_Connection,
            log_config=None,
            access_log=False,
            lifespan="off",
            ws="none",
            server_header=False,
            timeout_graceful_shutdown=STOP_WITHIN_S,
        )
        self._server = _Quiet(config)
        self._serving = asyncio.create_task(self._server.serve(sockets=[self._socket]), name="gateway-http")

    async def stop(self) -> None:
        """Takes no more requests, lets requests under way end, and closes the socket."""
        if self._server is not None:
            self._server.should_exit = True
        if self._serving is not None:
            await asyncio.gather(self._serving, return_exceptions=True)
        self._socket.close()
