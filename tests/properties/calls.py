"""The calls of the protocol as plain values: what a client sends, the same bytes however often it is sent.

A call is immutable and hashable, so that it can be kept, sent again late, and printed as a trace that runs again.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

from .config import Config

#: A policy: (version, epoch that made it).
Policy = tuple[int, str]

#: What a call answered: plain data; an error is `{"error": CODE}`.
Answer = dict[str, Any]

Verdict = Literal["accept", "reject"]
#: How a result travels: in the call, SET before it in the same pipeline, or not at all (the SET was lost).
Bytes = Literal["inline", "set", "missing"]


def error(code: str) -> Answer:
    """The answer of a call that was refused with `code`."""
    return {"error": code}


@dataclass(frozen=True, slots=True)
class NewTask:
    """A task to enqueue."""

    id: str
    payload: bytes
    samples: int = 1
    min_samples: int = 1
    priority: int = 0
    timeout_ms: int | None = None
    max_attempts: int | None = None
    enough: int | None = None


def task_options(task: Any) -> dict[str, Any]:
    """What an enqueue says of a task besides its id and payload; `task` is the new one, or the model's."""
    names = ("samples", "enough", "min_samples", "priority", "timeout_ms", "max_attempts")
    return {name: getattr(task, name) for name in names}


@dataclass(frozen=True, slots=True)
class SubmitItem:
    """One result: the attempt, the verdict, the newest policy used (or none), and how its bytes travel."""

    attempt: str
    verdict: Verdict = "accept"
    policy: Policy | None = None
    data: bytes = b""
    how: Bytes = "inline"
    reason: str = ""

    @property
    def by_set(self) -> bool:
        """Whether the bytes were SET before the call, as far as the sender knows; a verdict has none."""
        return self.verdict == "accept" and self.how != "inline"


@dataclass(frozen=True, slots=True)
class Open:
    """A trainer opens the run: creates it or takes it over. Fields of the config that are `unsaid` it does not give."""

    token: str
    config: Config | None
    update: bool = False
    unsaid: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Numbered:
    """A numbered call of a trainer (`request` empty), or the call of an operator with a request id."""

    token: str = ""
    number: int = 0
    request: str = ""


@dataclass(frozen=True, slots=True)
class Enqueue(Numbered):
    """Adds tasks and stores the data loader's position; with `again` also those that are dead or rejected, or were.

    `supply`: a feeder begins, or whether it will bring more tasks; empty: nobody says. What a feeder that has begun
    brings does not open a finished run again.
    """

    tasks: tuple[NewTask, ...] = ()
    cursor: str = ""
    again: bool = False
    supply: Literal["", "begin", "more", "done"] = ""


@dataclass(frozen=True, slots=True)
class Take(Numbered):
    """Fills the batch of a step, and seals it when it is full."""

    step: int = 0
    n: int = 1
    limit: int = 100
    seal: bool = True
    short: bool = False


@dataclass(frozen=True, slots=True)
class Discard(Numbered):
    """The trainer's filter."""

    tasks: tuple[str, ...] = ()
    reason: str = "discarded"


@dataclass(frozen=True, slots=True)
class Advance(Numbered):
    """Acknowledges the batch of step = version. `digest` is the model's name of it."""

    step: int = 0
    digest: str = ""
    allow_empty: bool = False
    blob: bytes | None = None


@dataclass(frozen=True, slots=True)
class Cancel(Numbered):
    """Ends tasks that are not yet sealed into a batch."""

    tasks: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Forget(Numbered):
    """Ends tasks that are not yet sealed into a batch, and frees the records of these and of dead and rejected ones."""

    tasks: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Pause(Numbered):
    """Stops claims (`paused`) or starts of tasks (`draining`)."""

    mode: Literal["paused", "draining"] = "paused"


@dataclass(frozen=True, slots=True)
class Resume(Numbered):
    """Ends a pause; a halt, too, where that is said."""

    halted: bool = False


@dataclass(frozen=True, slots=True)
class Configure(Numbered):
    """Changes the fields of the config that are not `unsaid`."""

    config: Config = field(default_factory=Config)
    unsaid: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Finish(Numbered):
    """The run is over."""


@dataclass(frozen=True, slots=True)
class Prioritise(Numbered):
    """Gives tasks that wait another priority: (task, priority)."""

    priorities: tuple[tuple[str, int], ...] = ()


@dataclass(frozen=True, slots=True)
class Retry(Numbered):
    """Dead and rejected tasks start over."""

    tasks: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Readmit(Numbered):
    """Ends the quarantine of sessions, or of all sessions of workers; no names: of all sessions."""

    names: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Commit(Numbered):
    """A checkpoint of this version is safely written; an operator says of which epoch it is."""

    version: int = 0
    epoch: str = ""


@dataclass(frozen=True, slots=True)
class RecoverSweep(Numbered):
    """A piece of a recovery: tasks, and whether the checkpoint says that they are unfinished."""

    tasks: tuple[tuple[str, bool], ...] = ()


@dataclass(frozen=True, slots=True)
class RecoverEnd(Numbered):
    """The end of a recovery."""


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """What a trainer saves beside its weights; the full kind, with the unfinished tasks themselves."""

    version: int
    epoch: str
    order: int
    cursor: str
    blob: bytes
    policies: tuple[tuple[int, str], ...]
    recoveries: tuple[tuple[int, int], ...]
    unfinished: dict[str, NewTask]
    given: tuple[str, ...]
    #: What the steps below the version trained on, and all rows that had reached an end or were left to the caller, as the
    #: ghost knows.
    trained: frozenset[str]
    done: frozenset[str]


@dataclass(frozen=True, slots=True)
class RecoverBegin:
    """The beginning of a recovery: by a checkpoint, with its epoch, newest task and policies, or to a version."""

    token: str
    version: int
    file_epoch: str = ""
    listed_order: int = -1
    in_flight: Literal["keep", "requeue"] = "keep"
    policies: tuple[tuple[int, str], ...] = ()
    cursor: str | None = None
    blob: bytes | None = None
    #: (epoch number, version) of the recoveries that the checkpoint knows.
    recoveries: tuple[tuple[int, int], ...] = ()
    #: The token of the epoch that gave each order number of the checkpoint, the first one first.
    given: tuple[str, ...] = ()
    #: The checkpoint itself, for the ghost; it is not sent.
    file: Checkpoint | None = None


@dataclass(frozen=True, slots=True)
class Join:
    """A new session of a worker."""

    worker: str
    nonce: str
    lease_ms: int


@dataclass(frozen=True, slots=True)
class Claim:
    """Asks for attempts."""

    session: str
    number: int
    n: int
    random: str
    policy: Policy | None = None
    limit: int = 100


@dataclass(frozen=True, slots=True)
class Renew:
    """A heartbeat; `number` is the last claim number that the worker has an answer of, 0 while one is under way."""

    session: str
    number: int
    held: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Leave:
    """Ends a session without penalty."""

    session: str


@dataclass(frozen=True, slots=True)
class Submit:
    """Hands in results."""

    items: tuple[SubmitItem, ...]


@dataclass(frozen=True, slots=True)
class SetBytes:
    """The first half of a submit: the bytes arrived, and the connection was lost."""

    attempt: str
    data: bytes


@dataclass(frozen=True, slots=True)
class Release:
    """Gives attempts back without penalty."""

    attempts: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Fail:
    """An attempt failed with an error."""

    attempt: str
    error: str = "boom"
    retry: bool = True
    kind: Literal["task", "worker"] = "task"


@dataclass(frozen=True, slots=True)
class Requeue:
    """Takes back what is due."""

    limit: int = 100


@dataclass(frozen=True, slots=True)
class Trim:
    """Frees what nothing needs any more."""

    limit: int = 1_000


#: What goes through the trainer's channel, or comes from an operator.
Gated = (
    Enqueue
    | Take
    | Discard
    | Advance
    | Cancel
    | Forget
    | Pause
    | Resume
    | Finish
    | Configure
    | Prioritise
    | Retry
    | Readmit
    | Commit
    | RecoverSweep
    | RecoverEnd
)

Call = Open | RecoverBegin | Gated | Join | Claim | Renew | Leave | Submit | SetBytes | Release | Fail | Requeue | Trim
