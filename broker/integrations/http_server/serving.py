"""Serves an application with uvicorn, in the foreground or beside a trainer."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Generator
from typing import TYPE_CHECKING

import uvicorn

from broker.connections import END_WITHIN_S
from broker.integrations.http_server import protocols

if TYPE_CHECKING:
    from starlette.types import ASGIApp

#: How long requests under way may take to end when the server stops, seconds.
STOP_WITHIN_S = int(END_WITHIN_S)
#: How long a connection may be idle, seconds: longer than clients pause between two looks. A request that meets the
#: closing of its connection fails.
IDLE_S = 120


def new_event_loop() -> asyncio.AbstractEventLoop:
    """An event loop for a process that only serves: uvloop's, which costs half, where it is installed."""
    try:
        import uvloop
    except ImportError:
        return asyncio.new_event_loop()
    return uvloop.new_event_loop()


class _Quiet(uvicorn.Server):
    """A server that leaves the process's signals to its caller."""

    @contextlib.contextmanager
    def capture_signals(self) -> Generator[None]:
        """Captures no signals."""
        yield


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
            http=protocols.CONNECTION,
            log_config=None,
            access_log=False,
            lifespan="off",
            ws="none",
            server_header=False,
            timeout_keep_alive=IDLE_S,
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
