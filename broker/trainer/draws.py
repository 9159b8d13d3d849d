"""Drawing the items of a data loader in a thread of its own, so that a loader that is slow holds nothing up."""

from __future__ import annotations

import asyncio
import queue
import threading
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import Future, wait
from typing import Any, Final, Protocol

#: What `draw` returns after the last item, and when the next one is not there yet.
END: Final = object()
NOT_YET: Final = object()


class Draw(Protocol):
    """Draws the items of a loader, one after the other."""

    async def __call__(self, within_s: float) -> Any:
        """The next item, END, or NOT_YET when the loader needs longer than this, in seconds."""
        ...

    def close(self) -> None:
        """Draws no more. An item that is being drawn is lost."""
        ...


class DrawingThread:
    """One daemon thread that calls a loader's iterator: neither the process nor an event loop waits for it at the end.

    Args:
        iterator: the loader's.
    """

    def __init__(self, iterator: Iterator[Any]) -> None:
        self._iterator = iterator
        self._asked: queue.SimpleQueue[Future[Any] | None] = queue.SimpleQueue()
        self._pending: Future[Any] | None = None
        self._thread: threading.Thread | None = None

    @property
    def pending(self) -> Future[Any]:
        """The item that is being drawn; begins to draw one if none is."""
        if self._thread is None:
            self._thread = threading.Thread(target=self._draw, name="broker-feed", daemon=True)
            self._thread.start()
        if self._pending is None:
            self._pending = Future()
            self._pending.set_running_or_notify_cancel()  # from here on nobody can cancel it
            self._asked.put(self._pending)
        return self._pending

    def taken(self) -> Any:
        """The item that was drawn; raises the loader's error."""
        drawn, self._pending = self.pending, None
        return drawn.result()

    def close(self) -> None:
        """As `Draw.close`."""
        self._asked.put(None)

    def _draw(self) -> None:
        while (asked := self._asked.get()) is not None:
            try:
                item = next(self._iterator, END)
            except BaseException as error:  # noqa: BLE001 - raised again by `taken`
                asked.set_exception(error)
                return
            asked.set_result(item)
            if item is END:
                return


class DrawingTask:
    """Draws the items of an asynchronous loader.

    Args:
        items: the loader's iterator.
    """

    def __init__(self, items: AsyncIterator[Any]) -> None:
        self._items = items
        self._pending: asyncio.Task[Any] | None = None

    async def __call__(self, within_s: float) -> Any:
        """As `Draw`."""
        if self._pending is None:
            self._pending = asyncio.create_task(self._next())
        await asyncio.wait((self._pending,), timeout=within_s)
        if not self._pending.done():
            return NOT_YET
        drawn, self._pending = self._pending, None
        return drawn.result()

    def close(self) -> None:
        """As `Draw.close`."""
        if self._pending is not None:
            self._pending.cancel()

    async def _next(self) -> Any:
        return await anext(self._items, END)


class DrawBlocking(DrawingThread):
    """Draws for a feeder that runs in a thread."""

    async def __call__(self, within_s: float) -> Any:
        """As `Draw`."""
        wait([self.pending], within_s)
        return self.taken() if self.pending.done() else NOT_YET


class DrawOnLoop(DrawingThread):
    """Draws for a feeder that runs on an event loop."""

    async def __call__(self, within_s: float) -> Any:
        """As `Draw`."""
        await asyncio.wait((asyncio.wrap_future(self.pending),), timeout=within_s)
        return self.taken() if self.pending.done() else NOT_YET
