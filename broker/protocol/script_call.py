"""One call of one script: what to send and how to read the answer, without any I/O."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Generic, Literal, TypeVar

from broker.errors import BrokerError
from broker.protocol.keys import run_of

T = TypeVar("T")

_UNREADABLE = (
    "the answer of a script cannot be read: a script of this run may have been stopped half-way, as where its user's "
    "rights were taken away; `broker audit --deep` names what is damaged, a recovery mends it"
)

Argument = str | bytes | int
#: The clock of a call, ARGV[1] of every script: milliseconds that a caller injects, or "" for the server's clock.
Now = int | Literal[""]


@dataclass(slots=True)
class ScriptCall(Generic[T]):
    """A call of ``lua/<script>.lua``.

    Args:
        script: name of the script, without ``.lua``.
        keys: KEYS; the first is the state key of the run, which fixes the hash slot.
        args: ARGV; the first is a `Now`.
        parse: reads the raw reply.
        before: plain commands sent ahead of the script in the same pipeline.
        with_before: `parse` gets a list: the replies of these commands, and that of the script at its end.
    """

    script: str
    keys: tuple[str, ...]
    args: tuple[Argument, ...]
    parse: Callable[[Any], T]
    before: tuple[tuple[Argument, ...], ...] = ()
    with_before: bool = False

    def after(self, *commands: tuple[Argument, ...]) -> ScriptCall[tuple[list[Any], T]]:
        """This call after plain commands, in the same pipeline: its value is their replies, and its own value."""

        def both(replies: list[Any]) -> tuple[list[Any], T]:
            return replies[:-1], self.parse(replies[-1])

        if not commands:  # then the reply is the script's alone
            return ScriptCall(self.script, self.keys, self.args, lambda reply: ([], self.parse(reply)))
        return ScriptCall(self.script, self.keys, self.args, both, commands, with_before=True)

    def outcome(self, reply: Any) -> T | BrokerError:
        """The value of the call, read from its reply, or its error, not raised."""
        try:
            return self.parse(reply)
        except BrokerError as problem:
            return problem
        except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as problem:
            said = BrokerError("UNREADABLE", message=_UNREADABLE, script=self.script, run=run_of(self.keys[0]) or "")
            said.__cause__ = problem
            return said
