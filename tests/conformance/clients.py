"""Both clients with one synchronous interface, so that each test runs with both; and calls without an answer."""

from collections.abc import Callable, Coroutine, Generator, Sequence
from contextlib import contextmanager
from types import TracebackType
from typing import Any, Literal, Self, TypeVar

import pytest

from broker import Trainer
from broker.connections import AsyncTransport, ServerInfo, Transport, open_async_transport, open_transport
from broker.connections.sync import run_blocking
from broker.errors import ServerUnavailable
from broker.protocol import anyone
from broker.protocol.script_call import ScriptCall
from tests.threads import LoopThread

T = TypeVar("T")


class LoopClient:
    """The asyncio client, on an event loop in a thread of its own."""

    def __init__(self, url: str, timeout_s: float, retry_for_s: float, **options: Any) -> None:
        self._thread = LoopThread()
        self._closed = False

        async def opened() -> AsyncTransport:
            return open_async_transport(url, timeout_s=timeout_s, retry_for_s=retry_for_s, **options)

        try:
            self.transport: AsyncTransport = self.run(opened())
        except BaseException:
            self._thread.close()
            raise

    def run(self, call: Coroutine[Any, Any, T]) -> T:
        """The result of a coroutine, on the loop of the client."""
        return self._thread.do(call)

    def execute(self, script_calls: Sequence[ScriptCall[Any]], *_: Any) -> list[Any]:
        return self.run(self.transport.execute(script_calls))

    def command(self, *args: str | bytes | int) -> Any:
        return self.run(self.transport.command(*args))

    def pipeline(self, commands: Sequence[Sequence[str | bytes | int]]) -> list[Any]:
        return self.run(self.transport.pipeline(commands))

    def wait_marker(self, keys: Sequence[str], timeout_s: float) -> str | None:
        return self.run(self.transport.wait_marker(keys, timeout_s))

    def server_info(self) -> ServerInfo:
        return self.run(self.transport.server_info())

    def interrupt(self) -> None:
        self._thread.loop.call_soon_threadsafe(self.transport.interrupt)

    def close(self) -> None:
        if not self._closed:
            self._closed = True
            self.run(self.transport.close())
            self._thread.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def make_client(
    flavour: str, url: str, timeout_s: float = 5.0, retry_for_s: float = 10.0, **options: Any
) -> Transport | LoopClient:
    """A client; `flavour` is `sync` or `aio`."""
    if flavour == "sync":
        return open_transport(url, timeout_s=timeout_s, retry_for_s=retry_for_s, **options)
    return LoopClient(url, timeout_s, retry_for_s, **options)


def blocking(call: Callable[..., Coroutine[Any, Any, Any]]) -> Callable[..., Any]:
    """A synchronous function of a coroutine function of a blocking transport's `io`."""
    return lambda *given: run_blocking(call(*given))


def coroutine(call: Callable[..., Any]) -> Callable[..., Coroutine[Any, Any, Any]]:
    """A coroutine function of a synchronous function."""

    async def answer(*given: Any) -> Any:
        return call(*given)

    return answer


Unanswered = Literal["executed", "not sent", "only the call", "interrupted", "not begun"]


@contextmanager
def unanswered(trainer: Trainer, how: Unanswered) -> Generator[None]:
    """The trainer's call in the block ends without an answer. The server executes it whole, in part or not at all."""
    io = trainer._transport.io
    execute = blocking(io.execute)
    error = (
        KeyboardInterrupt()
        if how in {"interrupted", "not begun"}
        else ServerUnavailable(url="", seconds=30, last="silence")
    )

    def broken(script_calls: Any, *_: Any) -> Any:
        if how == "only the call" and script_calls[0].script == "advance":
            return [*execute(script_calls)[:1], anyone.TRIM_AGAIN]
        if how != "not sent":
            execute(script_calls)
        raise error

    with pytest.MonkeyPatch.context() as patch, pytest.raises(type(error)):
        if how == "not begun":
            patch.setattr(trainer._state.numbered._turn, "take", coroutine(interrupted))
        else:
            patch.setattr(io, "execute", coroutine(broken))
        yield


def interrupted(*_: Any, **__: Any) -> Any:
    raise KeyboardInterrupt
