"""Script calls of checkpoints and recovery."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from broker.protocol import keys
from broker.protocol.parsing import words
from broker.protocol.script_call import Argument, Now, ScriptCall
from broker.protocol.trainer import CallId


@dataclass(frozen=True, slots=True)
class Begin:
    """The target of a recovery.

    Args:
        version: the version.
        file_epoch: epoch of the checkpoint, empty without one.
        listed_order: number of the newest task that the checkpoint knows; -1: it has no list of tasks.
        in_flight: `keep` or `requeue`.
        policies: version -> epoch that made it, as the checkpoint knows.
        allow_loss: go below the floor.
        cursor: the data loader's position as JSON, None: leave the stored one.
        blob: what workers get with their claims at that version, or None.
        recoveries: earlier recoveries that the checkpoint knows, `epoch:version ...`.
        lineage: the epochs that gave the checkpoint's order numbers, `token:number ...`; empty: unknown.
    """

    version: int
    file_epoch: str = ""
    listed_order: int = -1
    in_flight: str = "keep"
    policies: Mapping[int, str] = field(default_factory=dict[int, str])
    allow_loss: bool = False
    cursor: str | None = None
    blob: bytes | None = None
    recoveries: str = ""
    lineage: str = ""

    @property
    def policy_pairs(self) -> list[Argument]:
        """Version, epoch, version, epoch ..."""
        return [part for item in self.policies.items() for part in item]


@dataclass(frozen=True, slots=True)
class Begun:
    """The new epoch, the numbers before the recovery, and how many tasks the lost steps had consumed."""

    epoch: str
    version: int
    step_next: int
    accepted: int
    running: int
    capacity: int
    consumed_by_lost_steps: int


def _begun(reply: Any) -> Begun:
    epoch, *numbers = words(reply)
    return Begun(epoch, *map(int, numbers))


def begin(run: str, token: str, to: Begin, config: Mapping[str, str] | None, *, now: Now = "") -> ScriptCall[Begun]:
    """Begins a recovery under a new epoch; with config, a run that does not exist is created."""
    args: list[Argument] = [
        *(now, token, to.version, to.file_epoch, to.listed_order, to.in_flight, int(to.allow_loss)),
        *(int(to.cursor is not None), to.cursor or "", int(to.blob is not None), to.blob or b""),
        *(len(to.policies), to.recoveries, to.lineage),
        *to.policy_pairs,
    ]
    for name, value in (config or {}).items():
        args += (name, value)
    return ScriptCall("recover_begin", (keys.state(run),), tuple(args), _begun)


@dataclass(frozen=True, slots=True)
class Swept:
    """How many of the tasks were dealt with, and counts of what became of them, by name."""

    done: int
    counts: dict[str, int]


def _swept(reply: Any) -> Swept:
    done, *rest = words(reply)
    return Swept(int(done), {name: int(n) for name, n in zip(rest[::2], rest[1::2], strict=True)})


def _listed(tasks: Sequence[str], is_listed: Callable[[str], bool]) -> list[Argument]:
    return [part for task in tasks for part in (int(is_listed(task)), task)]


def sweep(
    run: str, call_id: CallId, tasks: Sequence[str], is_listed: Callable[[str], bool], *, now: Now = ""
) -> ScriptCall[Swept]:
    """Moves at most 1000 tasks to their state at the recovered version."""
    args = (now, *call_id.args, *_listed(tasks, is_listed))
    return ScriptCall("recover_sweep", (keys.state(run),), args, _swept)


def preview(
    run: str, to: Begin, tasks: Sequence[str], is_listed: Callable[[str], bool], *, now: Now = ""
) -> ScriptCall[Swept]:
    """Answers as sweep, but changes nothing; counts `file_cursor` if the checkpoint's cursor would be taken."""
    head = (now, to.version, to.listed_order, to.in_flight, to.file_epoch, int(to.allow_loss))
    more = (int(to.cursor is not None), to.lineage, len(to.policies), *to.policy_pairs)
    args = (*head, *more, *_listed(tasks, is_listed))
    return ScriptCall("recover_preview", (keys.state(run),), args, _swept)


@dataclass(frozen=True, slots=True)
class Recovered:
    """The counters after a recovery."""

    accepted: int
    running: int
    capacity: int


def _recovered(reply: Any) -> Recovered:
    return Recovered(*map(int, words(reply)))


def end(run: str, call_id: CallId, *, now: Now = "") -> ScriptCall[Recovered]:
    """Ends a recovery; the run goes on."""
    return ScriptCall("recover_commit", (keys.state(run),), (now, *call_id.args), _recovered)


def commit(run: str, call_id: CallId, version: int, epoch: str = "", *, now: Now = "") -> ScriptCall[int]:
    """Says that a checkpoint of this version is safely written. Returns the floor.

    Args:
        run: the run.
        call_id: who wrote it.
        version: the checkpoint's.
        epoch: the checkpoint's, if an operator wrote it: a recovery since may have undone it.
        now: as `Now`.
    """
    return ScriptCall("commit", (keys.state(run),), (now, *call_id.args, version, epoch), int)
