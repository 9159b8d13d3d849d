"""Serves an application for a command: until Ctrl-C or SIGTERM, then it lets the requests under way end."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Callable, Generator
from contextlib import AbstractAsyncContextManager, contextmanager
from typing import TYPE_CHECKING

from broker.integrations.http_server.serving import Listener, new_event_loop

if TYPE_CHECKING:
    from starlette.types import ASGIApp

#: Called when the server begins to stop: ends what would go on by itself.
End = Callable[[], None]

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


def serve(
    listener: Listener,
    application: Callable[[], AbstractAsyncContextManager[tuple[ASGIApp, End]]],
    say: Callable[[], None],
) -> int:
    """Serves until a signal comes; a second one ends the process at once.

    Args:
        listener: listens already.
        application: opens the application; it is closed after the last request.
        say: called when requests are answered.

    Returns:
        The exit code, if the process was started with the signal ignored; else the signal ends the process.
    """

    async def until_told() -> int:
        ended = asyncio.Event()
        caught: list[int] = []
        loop = asyncio.get_running_loop()

        def told(number: int) -> None:
            caught.append(number)
            ended.set()
            for one in _SIGNALS:
                loop.remove_signal_handler(one)  # a second signal ends the process at once

        for number in _SIGNALS:
            loop.add_signal_handler(number, told, number)
        try:
            async with application() as (app, end):
                await listener.start(app)
                say()
                await ended.wait()
                end()
                await listener.stop()
        finally:
            await listener.stop()
        return caught[0]

    with _handlers_kept(), asyncio.Runner(loop_factory=new_event_loop) as runner:
        number = runner.run(until_told())
    signal.raise_signal(number)
    return 128 + number


@contextmanager
def _handlers_kept() -> Generator[None]:
    """Restores the signal handlers: the event loop replaces them, and leaves the system's defaults."""
    before = {number: signal.getsignal(number) for number in _SIGNALS}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
