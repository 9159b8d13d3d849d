"""How clients make the calls that the folders below describe as coroutines: blocking, or on an event loop."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

from broker.connections import AsyncTransport, Transport
from broker.connections.background import in_background
from broker.connections.interrupts import shorten
from broker.connections.sync import run_blocking
from broker.errors import BadArgument, ServerUnavailable

T = TypeVar("T")

_NOT_OPEN = "this client is not open: use it with `async with`, or await its `open` before any other call"


class BlockingClient:
    """A client that blocks.

    Args:
        transport: sends the calls.
    """

    #: Makes a call.
    _run = staticmethod(run_blocking)

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    def _run_within(self, call: Coroutine[Any, Any, T], seconds: float) -> T:
        """Makes a call, and waits for a limited time, even where the call waits for DNS or a silent server.

        A call that has not ended by then is broken off when the transport is closed.

        Raises:
            ServerUnavailable: the call has not ended in that time.
        """
        try:
            done, _ = in_background(lambda: self._run(call), "broker-ending")
        except RuntimeError:  # the interpreter ends and starts no more threads
            return self._run(call)
        try:
            return done.result(seconds)
        except TimeoutError:
            if done.done():
                raise
            problem = "ending waits no longer"
            raise ServerUnavailable(url=self._transport.url, seconds=round(seconds, 1), error=problem) from None


class AsyncClient:
    """A client on an event loop.

    Args:
        transport: sends the calls.
    """

    def __init__(self, transport: AsyncTransport) -> None:
        self._transport = transport
        self._is_open = False  # `open` was called, and has not failed

    def _must_be_open(self) -> None:
        """Raises BadArgument in a forked child, and before `open`."""
        self._transport.refuse_forked()
        if not self._is_open:
            raise BadArgument(problem=_NOT_OPEN)

    async def _run(self, call: Coroutine[Any, Any, T]) -> T:
        """Makes a call. Raises BadArgument in a forked child, and before `open`."""
        try:
            self._must_be_open()
        except BadArgument:
            call.close()
            raise
        try:
            return await call
        except (asyncio.CancelledError, KeyboardInterrupt) as error:
            shorten(error)
            raise
