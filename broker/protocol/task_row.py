"""All that the run knows of one task, to show to people: the answer of `lua/task.lua`."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

from broker.protocol import keys
from broker.protocol.parsing import text
from broker.protocol.script_call import Now, ScriptCall
from broker.protocol.task_options import TaskOptions

#: What the letters of `TaskRow.letters` say of each slot.
SLOT_LETTERS = {
    "O": "open",
    "W": "waits for its backoff",
    "H": "held",
    "D": "done",
    "F": "failed for good",
    "S": "closed: enough were done",
}


@dataclass(frozen=True, slots=True)
class SlotRow:
    """The last attempt of a slot."""

    slot: int
    attempt_id: str
    tries: int
    version: int
    session: str
    at_ms: int
    why: str


@dataclass(frozen=True, slots=True)
class FailureRow:
    """The last failed attempt of a task: whose fault it was (`task` or `worker`), when, and the error in words.

    `trace` is the traceback, or its end; empty where the worker sent none.
    """

    attempt_id: str
    kind: str
    at_ms: int
    message: str
    trace: str


def _failure(stored: bytes) -> FailureRow | None:
    if not stored:
        return None
    head, _, words = stored.partition(b"\n")
    attempt_id, kind, at, size = text(head).split()
    message, trace = words[: int(size)], words[int(size) :]
    return FailureRow(attempt_id, kind, int(at), message.decode(errors="replace"), trace.decode(errors="replace"))


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskRow(TaskOptions):
    """All that is known of a task."""

    id: str
    state: str
    order: int
    errors: int
    oldest: int
    newest: int
    stale_requeues: int
    requeues: int
    step: int
    letters: str
    reason: str
    payload_bytes: int
    slots: tuple[SlotRow, ...]
    last_failure: FailureRow | None = None


_TEXTS = ("state", "letters", "reason")
_NUMBERS = frozenset(field.name for field in fields(TaskRow)).difference(_TEXTS, ("id", "slots", "last_failure"))


def task(run: str, task_id: str, *, now: Now = "") -> ScriptCall[TaskRow | None]:
    """One task; None when the run does not know it."""

    def parse(reply: Any) -> TaskRow | None:
        if not reply:
            return None
        facts, *rows = reply
        told: dict[str, Any] = {text(name): value for name, value in zip(facts[::2], facts[1::2], strict=True)}
        numbers: dict[str, Any] = {name: int(told[name]) for name in _NUMBERS & told.keys()}
        words = {name: text(told[name]) for name in _TEXTS}
        slots = tuple(
            SlotRow(int(s[0]), text(s[1]), int(s[2]), int(s[3]), text(s[4]), int(s[5]), text(s[6])) for s in rows
        )
        return TaskRow(id=task_id, last_failure=_failure(told["last_failure"]), slots=slots, **words, **numbers)

    return ScriptCall("task", (keys.state(run),), (now, task_id), parse)
