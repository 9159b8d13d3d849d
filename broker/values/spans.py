"""What traces this process, if anything does, and how the context of a trace travels with a result.

A result that carries a context is stored as C1 04 00 00, one byte n, n bytes of a W3C `traceparent`, then the bytes of
the result itself. A release that does not know this form cannot read the result.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any, Final, Protocol

if TYPE_CHECKING:
    from broker.values.attempt import Attempt
    from broker.values.rollout import Rollout

#: Begins the bytes of a result that carries a context.
CONTEXT_MARK: Final = b"\xc1\x04\x00\x00"


class Tracing(Protocol):
    """What clients tell of attempts and steps; `broker.tracing` makes spans of it. No method raises."""

    def now_ns(self) -> int:
        """The time, as spans have it."""
        ...

    def claimed(self, worker: str, since_ns: int, attempts: Sequence[Attempt]) -> None:
        """A claim that was made at `since_ns` has brought attempts of one run."""
        ...

    def handle(self, handler: Callable[[Attempt], Any], attempt: Attempt) -> Any:
        """Calls a handler; returns and raises what it does."""
        ...

    async def wait_for(self, outcome: Awaitable[Any], attempt: Attempt) -> Any:
        """Awaits what a handler returned; returns and raises what that does."""
        ...

    def submitting(self, attempt_id: str) -> str:
        """A result is about to be sent. Returns the context that goes with it; empty: none."""
        ...

    def answered(self, attempt_id: str, answer: str) -> None:
        """The server answered a result or a verdict."""
        ...

    def failed(self, attempt_id: str, error: str) -> None:
        """An error of an attempt was reported."""
        ...

    def left(self, attempt_id: str, why: str) -> None:
        """A worker does not work on an attempt any more."""
        ...

    def delivered(self, run: str, step: int, rollouts: Sequence[Rollout]) -> None:
        """A trainer has got the batch of a step."""
        ...

    def trained(self, run: str, step: int) -> None:
        """A trainer has advanced past a step."""
        ...

    def serving(self, method: str, route: str, traceparent: str) -> AbstractContextManager[Request]:
        """A gateway answers a request; its client may have sent a W3C `traceparent` (else empty)."""
        ...

    def here(self) -> str:
        """The `traceparent` of the span in which this is called; empty: there is none, or it is not sampled."""
        ...

    def note(self, **attributes: str) -> None:
        """Says more of the request that is being answered: `attempt`, `task`, `answer`."""
        ...


class Request(Protocol):
    """A request that a gateway answers."""

    def answered(self, status: int) -> None:
        """It was answered with a status of HTTP."""
        ...


#: None: nothing is traced, which costs clients a comparison.
active: Tracing | None = None


def with_context(context: str, body: bytes) -> bytes:
    """The bytes of a result that carries a context, of at most 255 ASCII characters."""
    return b"".join((CONTEXT_MARK, bytes((len(context),)), context.encode("ascii"), body))


def context_and_result(body: bytes) -> tuple[str, bytes]:
    """The context that a result carries, empty if none, and the bytes of the result itself."""
    if not body.startswith(CONTEXT_MARK) or len(body) < len(CONTEXT_MARK) + 1:
        return "", body
    start = len(CONTEXT_MARK) + 1
    end = start + body[start - 1]
    return body[start:end].decode("ascii", "replace"), body[end:]
