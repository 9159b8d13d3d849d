"""Script calls of gateways."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from broker.protocol import keys
from broker.protocol.script_call import Now, ScriptCall
from broker.protocol.worker import Answer, answer

#: What a controller has is forgotten when it has not asked for so long, milliseconds. `lua/include/gateway_records.lua`
#: has the same number.
HELD_FOR_MS = 604_800_000


def note_ends(run: str, tasks: Sequence[str], *, now: Now = "") -> ScriptCall[int]:
    """Writes down that at most 1000 tasks have ended, each once. Returns how many were new."""
    return ScriptCall("note_ends", (keys.state(run),), (now, *tasks), int)


def note_deleted(run: str, tasks: Sequence[str], *, now: Now = "") -> ScriptCall[int]:
    """Forgets what gateways keep of at most 1000 rollouts. Returns how many had a record."""
    return ScriptCall("note_deleted", (keys.state(run),), (now, *tasks), int)


@dataclass(slots=True)
class StatusChange:
    """What a controller says of an attempt.

    Args:
        task: the rollout's task.
        attempt: the attempt; empty: the rollout has none.
        letter: what it must be: `H`: it holds its slot; `D`: it submits its result; empty: that is not looked at.
        old, new: the rollout's record as the gateway knows it, and as it is to be.
        controller: who has the attempt.
        held: what the controller has of it; empty: it has the attempt no more.
        heard: when the attempt gave a sign of life; empty: it gave none.
        ended: whether the rollout has ended.
        body: the bytes of the result, with `D`.
    """

    task: str
    attempt: str
    letter: Literal["", "H", "D"]
    old: str
    new: str
    controller: str
    held: str = ""
    heard: str = ""
    ended: bool = False
    body: bytes = b""


@dataclass(slots=True)
class Noted:
    """Answer of note_status.

    Args:
        word: `noted`; `over`: the attempt's slot is not so, or its result was not accepted; `changed`: the record is
            another, though the result is accepted.
        payload: of the task, where it is noted and there is one.
        answer: to the submit that was not accepted.
    """

    word: str
    payload: bytes | None = None
    answer: Answer | None = None


def _noted(reply: Any) -> Noted:
    word, *more = reply
    found = more[0] if more else None
    if word == b"over" and found is not None:
        return Noted("over", answer=answer(found))
    return Noted(word.decode(), found)


def note_status(run: str, change: StatusChange, *, now: Now = "") -> ScriptCall[Noted]:
    """Writes down what a controller says of an attempt, if the run and the record are as the gateway knows them."""
    given = (change.task, change.attempt, change.letter, change.old, change.new, change.controller)
    args = (now, *given, change.held, change.heard, int(change.ended), change.body)
    return ScriptCall("note_status", (keys.state(run),), args, _noted)


def note_given(
    run: str, controller: str, fresh: str, given: Mapping[str, str], *, now: Now = ""
) -> ScriptCall[list[bytes]]:
    """Writes down at most 1000 attempts that were claimed for a controller.

    Args:
        run: name of the run.
        controller: the controller.
        fresh: the record of a rollout that has none yet, without its first three items: `, ...]`.
        given: what the controller has of each attempt.
        now: the clock.

    Returns:
        The record of each attempt's rollout; empty: the attempt does not hold its slot.
    """
    items = [part for one in given.items() for part in one]
    return ScriptCall("note_given", (keys.state(run),), (now, controller, fresh, *items), list)
