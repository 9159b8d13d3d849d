"""What the I/O-free core asks of a shell.

The logic of trainers and workers is written once, as generators that yield the steps below and are sent back what
came of them. The synchronous and the
asyncio client only carry the steps out.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

from broker.protocol.operation import Argument, Operation
from broker.protocol.trainer import Gate

T = TypeVar("T")

Operations = tuple[Operation[Any], ...]


@dataclass(slots=True)
class Call:
    """Send operations in one round trip.

    Sent back: the list of their values; a BrokerError among them is not raised.
    """

    operations: Operations


@dataclass(slots=True)
class GatedCall:
    """Send one call of the trainer's numbered channel, alone on it.

    Sent back: its value; its BrokerError is raised into the flow. With `then`: a list of its value and the outcomes of
    those, of which a BrokerError is not raised.

    Args:
        make: builds the operation when its turn has come.
        then: ungated operations for the same round trip, executed after it.
    """

    make: Callable[[Gate], Operation[Any]]
    then: Operations = ()


@dataclass(slots=True)
class TakeOver:
    """Send an operation that begins a new epoch, with no other call of the channel under way; then its numbers restart.

    Sent back: its value; its BrokerError is raised and changes nothing.
    """

    operation: Operation[Any]
    token: str


@dataclass(slots=True)
class Fetch:
    """Read the values of keys (MGET). Sent back: list of bytes or None, in order."""

    keys: tuple[str, ...]


@dataclass(slots=True)
class Command:
    """Send one plain command that may be sent twice. Sent back: its reply; its error is raised."""

    args: tuple[Argument, ...]


@dataclass(slots=True)
class Blocking:
    """Do something that blocks, such as reading a file. Sent back: what it returns (asyncio: from a thread)."""

    call: Callable[[], Any]


@dataclass(slots=True)
class WaitMarker:
    """Wait for a marker on one of the keys, which takes it. Sent back: the key; None when `seconds` passed first."""

    keys: tuple[str, ...]
    seconds: float


@dataclass(slots=True)
class WaitAndCall:
    """Wait for a marker on one of the keys, for at most `seconds`, and send operations in the same round trip.

    Sent back: as for `Call`, or None where their outcome is unknown: they may be sent again.
    """

    keys: tuple[str, ...]
    seconds: float
    operations: Operations


@dataclass(slots=True)
class Pause:
    """Wait, seconds. Ends early when the client is closed."""

    seconds: float


@dataclass(slots=True)
class Ask:
    """Call a hook of the user's. Sent back: its answer (asyncio: awaited if it is awaitable).

    Args:
        name: of the argument that it was given as.
        hook: the user's.
        given: what it is given by position.
        named: what it is given by name.
    """

    name: str
    hook: Callable[..., Any]
    given: tuple[Any, ...]
    named: Mapping[str, Any] = field(default_factory=dict[str, Any])


Step = Call | GatedCall | TakeOver | Fetch | Command | Blocking | WaitMarker | WaitAndCall | Pause | Ask
Flow = Generator[Step, Any, T]
