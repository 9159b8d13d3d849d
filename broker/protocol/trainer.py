"""Script calls of the trainer, and those it shares with operators."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

from broker.protocol import keys
from broker.protocol.anyone import RolloutRow, rollout_row
from broker.protocol.parsing import clock, text, words
from broker.protocol.script_call import Argument, ScriptCall


@dataclass(frozen=True, slots=True)
class CallId:
    """Who calls: the trainer by its epoch token and the number of the call, or an operator by a request id."""

    kind: str
    id: str
    call: int = 0

    @property
    def args(self) -> tuple[Argument, ...]:
        """The three arguments that say it."""
        return (self.kind, self.id, self.call)


def trainer_call_id(token: str, call: int) -> CallId:
    """The trainer's call number `call` under its epoch token."""
    return CallId("t", token, call)


def operator_call_id(request_id: str) -> CallId:
    """An operator's request; the same id again is the same request."""
    return CallId("o", request_id)


@dataclass(frozen=True, slots=True)
class Opened:
    """Answer of open: the epoch, the version and next step of the run, and whether it was created."""

    epoch: str
    version: int
    step_next: int
    created: bool


def _opened(reply: Any) -> Opened:
    epoch, version, step_next, created = words(reply)
    return Opened(epoch, int(version), int(step_next), created == "1")


def open_run(
    run: str, token: str, config: Mapping[str, str] | None, *, update: bool = False, now: int | None = None
) -> ScriptCall[Opened]:
    """Creates the run or becomes its trainer. Without config the run must exist."""
    pairs = [part for item in (config or {}).items() for part in item]
    return ScriptCall("open", (keys.state(run),), (clock(now), token, int(update), *pairs), _opened)


# Not frozen: one is made for each task, and a frozen one takes three times as long.
@dataclass(slots=True)
class NewTask:
    """A task as enqueue sends it; payload is encoded bytes."""

    id: str
    payload: bytes
    samples: int = 1
    min_samples: int = 1
    priority: int = 0


@dataclass(frozen=True, slots=True)
class EnqueuedPiece:
    """How many tasks were added, the positions of those that existed, and the state of each of these, a word."""

    added: int
    existing: tuple[int, ...]
    states: tuple[str, ...]


def _enqueued(reply: Any) -> EnqueuedPiece:
    added, *existing = words(reply)
    return EnqueuedPiece(int(added), tuple(map(int, existing[::2])), tuple(existing[1::2]))


def enqueue(
    run: str,
    call_id: CallId,
    tasks: Sequence[NewTask],
    cursor: str | None = None,
    *,
    again: bool = False,
    now: int | None = None,
) -> ScriptCall[EnqueuedPiece]:
    """Adds at most 1000 tasks.

    Args:
        cursor: if given, it is stored in the same step.
        again: dead and rejected ones start over as what is given now, also those that were freed.
    """
    args: list[Argument] = [clock(now), *call_id.args, int(cursor is not None), cursor or "", int(again)]
    for task in tasks:
        args += (task.id, task.priority, task.samples, task.min_samples, task.payload)
    return ScriptCall("enqueue", (keys.state(run),), tuple(args), _enqueued)


@dataclass(frozen=True, slots=True)
class Taken:
    """Answer of take. `left` and `exhausted` speak of the whole run; `more`: ready tasks it did not look at.

    `taken` is how many it moved to the batch, also where it is answered again.

    Args:
        rows: where they were asked for, those of all that this very call took, or the first ones of the batch that it
            sealed; none where the call was answered before.
        results: the bytes of all samples of these rows in order, or none of them.
    """

    size: int
    sealed: bool
    exhausted: bool
    left: int
    more: bool
    digest: str
    taken: int
    rows: tuple[RolloutRow, ...] = ()
    results: tuple[bytes | None, ...] = ()


def _taken(reply: Any) -> Taken:
    brought: list[Any] = cast("list[Any]", reply) if isinstance(reply, list) else [reply, (), ()]
    size, sealed, exhausted, left, more, digest, taken = words(brought[0])
    rows = tuple(map(rollout_row, brought[1]))
    flags = sealed == "1", exhausted == "1", int(left), more == "1"
    return Taken(int(size), *flags, digest, int(taken), rows, tuple(brought[2]))


def take(
    run: str,
    call_id: CallId,
    step: int,
    n: int,
    *,
    limit: int,
    seal: bool,
    short: bool = False,
    rows: int = 0,
    result_bytes: int = 0,
    now: int | None = None,
) -> ScriptCall[Taken]:
    """Fills batch `step` up to n rollouts from at most `limit` ready ones.

    Args:
        seal: seal the batch when it is full.
        short: seal it also when it holds all that is left of the run.
        rows: most rows that the answer brings when the batch is sealed; without `seal` of what it takes, which is
            then no more than that.
        result_bytes: most bytes of results that come with them, together.
    """
    args = (clock(now), *call_id.args, step, n, limit, int(seal), int(short), rows, result_bytes)
    return ScriptCall("take", (keys.state(run),), args, _taken)


def discard(
    run: str, call_id: CallId, reason: str, tasks: Sequence[str], *, now: int | None = None
) -> ScriptCall[list[str]]:
    """Takes rollouts out for good; a word for each task, of the first ones at least where they are large groups."""
    return ScriptCall("discard", (keys.state(run),), (clock(now), *call_id.args, reason, *tasks), words)


def cancel(run: str, call_id: CallId, tasks: Sequence[str], *, now: int | None = None) -> ScriptCall[list[str]]:
    """Takes tasks out of the run; a word for each, of the first ones at least where they are large groups."""
    return ScriptCall("cancel", (keys.state(run),), (clock(now), *call_id.args, *tasks), words)


def retry(run: str, call_id: CallId, tasks: Sequence[str], *, now: int | None = None) -> ScriptCall[list[str]]:
    """Starts dead or rejected tasks over; a word for each, of the first ones at least where they are large groups."""
    return ScriptCall("retry", (keys.state(run),), (clock(now), *call_id.args, *tasks), words)


@dataclass(frozen=True, slots=True)
class Advanced:
    """The new version and how many tasks were consumed."""

    version: int
    size: int


def _advanced(reply: Any) -> Advanced:
    version, size = words(reply)
    return Advanced(int(version), int(size))


def advance(
    run: str,
    call_id: CallId,
    step: int,
    digest: str,
    *,
    allow_empty: bool = False,
    blob: bytes | None = None,
    now: int | None = None,
) -> ScriptCall[Advanced]:
    """Acknowledges the sealed batch of step = version by its digest (`-`: none)."""
    args = (clock(now), *call_id.args, step, digest, int(allow_empty), int(blob is not None), blob or b"")
    return ScriptCall("advance", (keys.state(run),), args, _advanced)


def _mode(reply: Any) -> str:
    mode = text(reply)
    return "" if mode == "-" else mode


def pause(run: str, call_id: CallId, mode: str, *, now: int | None = None) -> ScriptCall[str]:
    """Sets the mode: `paused`, `draining` or empty; answers the one before."""
    return ScriptCall("pause", (keys.state(run),), (clock(now), *call_id.args, mode), _mode)


def _repaired(reply: Any) -> dict[str, tuple[int, int]]:
    parts = words(reply)
    return {parts[i]: (int(parts[i + 1]), int(parts[i + 2])) for i in range(0, len(parts), 3)}


def repair(run: str, call_id: CallId, *, now: int | None = None) -> ScriptCall[dict[str, tuple[int, int]]]:
    """Rewrites the counters by the structures; answers what was wrong: name -> (before, after)."""
    return ScriptCall("repair", (keys.state(run),), (clock(now), *call_id.args), _repaired)
