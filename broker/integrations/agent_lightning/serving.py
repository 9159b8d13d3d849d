"""Serving an application with uvicorn, in the foreground or beside a trainer."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Generator
from typing import TYPE_CHECKING

import uvicorn

if TYPE_CHECKING:
    from starlette.types import ASGIApp

#: How long requests under way may take to end when the server stops, seconds.
STOP_WITHIN_S = 9


class _Quiet(uvicorn.Server):
    """A server that leaves the process's signals to whoever runs it."""

    @contextlib.contextmanager
    def capture_signals(self) -> Generator[None]:
        """Captures none."""
        yield


class Listener:
    """A socket that listens, and the server behind it.

    Args:
        host: address to listen on.
        port: port; 0: any that is free.

    Raises:
        OSError: it cannot listen there.
    """

    def __init__(self, host: str, port: int) -> None:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        self._socket = socket.create_server((host, port), family=family, backlog=2048)
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
        """Takes no more requests, lets those under way end, and closes the socket."""
        if self._server is not None:
            self._server.should_exit = True
        if self._serving is not None:
            await asyncio.gather(self._serving, return_exceptions=True)
        self._socket.close()
