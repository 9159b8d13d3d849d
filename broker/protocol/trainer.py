"""Script calls of the trainer; operators make some of them too."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, cast

from broker.protocol import keys
from broker.protocol.anyone import RolloutRow, rollout_rows
from broker.protocol.parsing import words
from broker.protocol.script_call import Argument, Now, ScriptCall
from broker.protocol.task_options import NO_OPTIONS, TaskOptions
from broker.values.task import Task


@dataclass(frozen=True, slots=True)
class CallId:
    """Who calls: the trainer by its epoch token and the number of the call, or an operator by a request id."""

    kind: str
    id: str
    call: int = 0

    @property
    def args(self) -> tuple[Argument, ...]:
        """Its three arguments of a script."""
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
    run: str, token: str, config: Mapping[str, str] | None, *, update: bool = False, now: Now = ""
) -> ScriptCall[Opened]:
    """Creates the run or becomes its trainer. Without config the run must exist."""
    pairs = [part for item in (config or {}).items() for part in item]
    return ScriptCall("open", (keys.state(run),), (now, token, int(update), *pairs), _opened)


def beat(run: str, token: str, *, now: Now = "") -> ScriptCall[int]:
    """The trainer's sign of life. Returns when it was given, milliseconds of the run's clock."""
    return ScriptCall("beat", (keys.state(run),), (now, token), int)


# Not frozen: one is made for each task, and a frozen object takes three times as long.
@dataclass(slots=True)
class NewTask:
    """A task to enqueue; payload is encoded bytes."""

    id: str
    payload: bytes
    options: TaskOptions = NO_OPTIONS

    @staticmethod
    def of(task: Task, payload: bytes) -> NewTask:
        """A user's task, with its payload encoded."""
        return NewTask(task.id, payload, TaskOptions.of(task))


#: `begin`: a feeder begins; `more`: it will bring more tasks; `done`: it will not; empty: nobody says.
Supply = Literal["", "begin", "more", "done"]


@dataclass(frozen=True, slots=True)
class EnqueuedPiece:
    """How many tasks were added; the positions of the others, and the state of each, a word."""

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
    supply: Supply = "",
    now: Now = "",
) -> ScriptCall[EnqueuedPiece]:
    """Adds at most 1000 tasks.

    Args:
        cursor: the position to store in the same call, or None.
        again: dead and rejected tasks, freed ones too, start over with the payload and samples given now.
        supply: whether a feeder will bring more tasks after these; empty: nobody says.
    """
    args: list[Argument] = [now, *call_id.args, int(cursor is not None), cursor or "", int(again)]
    args.append(supply)
    options, text = NO_OPTIONS, ""
    for task in tasks:
        if task.options is not options:  # most tasks have the options of the one before
            options = task.options
            text = options.text
        args += (task.id, task.payload, text)
    return ScriptCall("enqueue", (keys.state(run),), tuple(args), _enqueued)


@dataclass(frozen=True, slots=True)
class Taken:
    """Answer of take. `left` is about the whole run; `more`: there are ready tasks not looked at.

    `taken` is how many tasks the call moved to the batch, also in a repeated answer. `halted`: the run is halted.

    Args:
        exhausted: fewer tasks than wanted are left in the run, and no feeder will bring more.
        short: a smaller batch is sealed when no more tasks are left: the caller asked so, or the feeder is at its end.
        sealed_ms: when the batch was sealed, on the run's clock; 0: it is not, or an earlier release did not note it.
        due: the first tasks that the batch waits for, because no later batch could hold them (`on_stale="wait"`).
        rows: if asked for, the rows of all tasks that the call took, or the first rows of the batch that it sealed;
            empty in a repeated answer.
        results: the bytes of all samples of these rows in order, or empty.
    """

    size: int
    sealed: bool
    exhausted: bool
    left: int
    more: bool
    digest: str
    sealed_ms: int
    taken: int
    short: bool
    halted: bool = False
    due: tuple[str, ...] = ()
    rows: tuple[RolloutRow, ...] = ()
    results: tuple[bytes | None, ...] = ()


def _taken(reply: Any) -> Taken:
    brought: list[Any] = cast("list[Any]", reply) if isinstance(reply, list) else [reply, (), ()]
    size, sealed, exhausted, left, more, digest, sealed_ms, taken, short, *others = words(brought[0])
    rows = tuple(rollout_rows(brought[1]))
    flags = sealed == "1", exhausted == "1", int(left), more == "1"
    return Taken(
        int(size),
        *flags,
        digest,
        int(sealed_ms),
        int(taken),
        short == "1",
        halted=others[:1] == ["1"],
        due=tuple(others[1:]),
        rows=rows,
        results=tuple(brought[2]),
    )


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
    now: Now = "",
) -> ScriptCall[Taken]:
    """Fills batch `step` up to n rollouts from at most `limit` ready ones.

    Args:
        seal: seal the batch when it is full.
        short: also seal it when it holds all tasks that are left in the run.
        rows: how many rows the answer may have. With `seal`, the answer has rows if the call seals the batch. Without
            `seal`, the answer has a row for each task that the call takes, so the call takes at most this many.
        result_bytes: most bytes of all results in the answer.
    """
    args = (now, *call_id.args, step, n, limit, int(seal), int(short), rows, result_bytes)
    return ScriptCall("take", (keys.state(run),), args, _taken)


def discard(run: str, call_id: CallId, reason: str, tasks: Sequence[str], *, now: Now = "") -> ScriptCall[list[str]]:
    """Takes rollouts out for good. Returns a word for each task; for large groups, for the first tasks at least."""
    return ScriptCall("discard", (keys.state(run),), (now, *call_id.args, reason, *tasks), words)


def cancel(run: str, call_id: CallId, tasks: Sequence[str], *, now: Now = "") -> ScriptCall[list[str]]:
    """Takes tasks out of the run. Returns a word for each; for large groups, for the first tasks at least."""
    return ScriptCall("cancel", (keys.state(run),), (now, *call_id.args, *tasks), words)


def forget(run: str, call_id: CallId, tasks: Sequence[str], *, now: Now = "") -> ScriptCall[list[str]]:
    """Cancels tasks, and frees their records. Returns a word for each; for large groups, for the first at least."""
    return ScriptCall("forget", (keys.state(run),), (now, *call_id.args, *tasks), words)


def retry(run: str, call_id: CallId, tasks: Sequence[str], *, now: Now = "") -> ScriptCall[list[str]]:
    """Starts dead or rejected tasks over. Returns a word for each; for large groups, for the first at least."""
    return ScriptCall("retry", (keys.state(run),), (now, *call_id.args, *tasks), words)


def prioritise(
    run: str, call_id: CallId, priorities: Sequence[tuple[str, int]], *, now: Now = ""
) -> ScriptCall[list[str]]:
    """Gives tasks that wait another priority. Returns a word for each, at most 1000."""
    pairs = [part for pair in priorities for part in pair]
    return ScriptCall("prioritise", (keys.state(run),), (now, *call_id.args, *pairs), words)


@dataclass(frozen=True, slots=True)
class Advanced:
    """The new version, how many tasks were consumed, and B (0 in an answer of an earlier release)."""

    version: int
    size: int
    batch_size: int = 0


def _advanced(reply: Any) -> Advanced:
    version, size, *batch_size = words(reply)
    return Advanced(int(version), int(size), int(batch_size[0]) if batch_size else 0)


def advance(
    run: str,
    call_id: CallId,
    step: int,
    digest: str,
    *,
    allow_empty: bool = False,
    blob: bytes | None = None,
    now: Now = "",
) -> ScriptCall[Advanced]:
    """Acknowledges the sealed batch of step = version by its digest (`-`: no batch)."""
    args = (now, *call_id.args, step, digest, int(allow_empty), int(blob is not None), blob or b"")
    return ScriptCall("advance", (keys.state(run),), args, _advanced)


@dataclass(frozen=True, slots=True)
class Paused:
    """How a run stood before a pause or resume.

    Args:
        mode: `paused`, `draining` or empty.
        halted: after how many failures it was halted; 0: it was not.
    """

    mode: str
    halted: int

    @property
    def ended(self) -> str:
        """What a resume of the halt, too, has ended: `halted`, the mode, both with `and` between them, or empty."""
        return " and ".join(word for word in ("halted" if self.halted else "", self.mode) if word)


def _paused(reply: Any) -> Paused:
    mode, *halted = words(reply)
    return Paused("" if mode == "-" else mode, int(halted[0]) if halted else 0)


def pause(run: str, call_id: CallId, mode: str, *, halted: bool = False, now: Now = "") -> ScriptCall[Paused]:
    """Sets the mode: `paused`, `draining` or empty, which ends a halt, too, where `halted` says so."""
    return ScriptCall("pause", (keys.state(run),), (now, *call_id.args, mode, int(halted)), _paused)


def _configured(reply: Any) -> dict[str, str]:
    parts = words(reply)
    return {name: "" if before == "-" else before for name, before in zip(parts[::2], parts[1::2], strict=True)}


def configure(run: str, call_id: CallId, changes: Mapping[str, str], *, now: Now = "") -> ScriptCall[dict[str, str]]:
    """Changes fields of the config. Returns those that changed, with their values before, as the run stores them."""
    pairs = [part for item in changes.items() for part in item]
    return ScriptCall("configure", (keys.state(run),), (now, *call_id.args, *pairs), _configured)


@dataclass(frozen=True, slots=True)
class Finished:
    """How a run stood as it was finished.

    Args:
        before: it was finished already.
        waiting: tasks left that were waiting to be started.
        running: tasks left that were started.
        ready: rollouts left that no sealed batch has.
    """

    before: bool
    waiting: int
    running: int
    ready: int

    @property
    def left(self) -> int:
        """How many tasks are left."""
        return self.waiting + self.running + self.ready


def _finished(reply: Any) -> Finished:
    before, waiting, running, ready = words(reply)
    return Finished(before == "1", int(waiting), int(running), int(ready))


def finish(run: str, call_id: CallId, *, now: Now = "") -> ScriptCall[Finished]:
    """The run is over: nothing is handed out, and no batch is formed any more."""
    return ScriptCall("finish", (keys.state(run),), (now, *call_id.args), _finished)


def readmit(run: str, call_id: CallId, names: Sequence[str] = (), *, now: Now = "") -> ScriptCall[list[str]]:
    """Ends the quarantine of sessions, or of all sessions of workers; no names: of all. Returns the sessions."""
    return ScriptCall("readmit", (keys.state(run),), (now, *call_id.args, *names), words)


def _repaired(reply: Any) -> dict[str, tuple[int, int]]:
    parts = words(reply)
    return {parts[i]: (int(parts[i + 1]), int(parts[i + 2])) for i in range(0, len(parts), 3)}


def repair(run: str, call_id: CallId, *, now: Now = "") -> ScriptCall[dict[str, tuple[int, int]]]:
    """Recomputes the counters. Returns name -> (before, after) of those that were wrong."""
    return ScriptCall("repair", (keys.state(run),), (now, *call_id.args), _repaired)
