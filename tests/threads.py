"""Calls and event loops in threads of their own. Every wait for them has a deadline."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

T = TypeVar("T")
#: How many seconds a call in another thread may take: a busy machine is several times slower.
PATIENCE_S = 60.0


class InThread:
    """A call in another thread; `result` waits for the call, and raises the call's exception."""

    def __init__(self, call: Callable[[], Any]) -> None:
        self._call = call
        self._answer: Any = None
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        try:
            self._answer = self._call()
        except BaseException as error:  # noqa: BLE001 - raised again by `result`
            self._error = error

    @property
    def is_running(self) -> bool:
        """Whether the call has not returned yet."""
        return self._thread.is_alive()

    def result(self, timeout_s: float = PATIENCE_S) -> Any:
        """Waits for the call, and returns its value."""
        self._thread.join(timeout_s)
        assert not self.is_running, f"no answer after {timeout_s:g} s"
        if self._error is not None:
            raise self._error
        return self._answer


def in_threads(*calls: Callable[[], Any]) -> list[Any]:
    """Makes calls at the same time, each in a thread of its own, and returns their values."""
    begun = [InThread(call) for call in calls]
    return [call.result() for call in begun]


class LoopThread:
    """An event loop in a thread of its own."""

    def __init__(self) -> None:
        self.loop = asyncio.new_event_loop()
        self._running = InThread(self.loop.run_forever)

    def do(self, call: Coroutine[Any, Any, T]) -> T:
        """Runs a coroutine in the loop, and returns its result."""
        return asyncio.run_coroutine_threadsafe(call, self.loop).result(PATIENCE_S)

    def close(self) -> None:
        """Ends the loop."""
        self.loop.call_soon_threadsafe(self.loop.stop)
        self._running.result()
        self.loop.close()
