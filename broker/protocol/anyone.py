"""Script calls for all clients: reading, taking back what is due, freeing what nothing needs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from broker.protocol import keys
from broker.protocol.ids import worker_of
from broker.protocol.parsing import text, texts, words
from broker.protocol.script_call import Now, ScriptCall
from broker.values.rollout import Sample


def requeue(run: str, limit: int = 100, *, now: Now = "") -> ScriptCall[int]:
    """Takes back what is due, at most limit of each kind. Returns how many."""
    return ScriptCall("requeue", (keys.state(run),), (now, limit), int)


#: The answer of a trim that stopped early because the groups were large.
TRIM_AGAIN = 2


class Trimmed(int):
    """Answer of trim: 0 when there is no more, else TRIM_AGAIN or 1; and how many dead and rejected tasks it freed."""

    dead: int = 0
    rejected: int = 0


def _trimmed(reply: Any) -> Trimmed:
    more, dead, rejected = map(int, words(reply))
    trimmed = Trimmed(more)
    trimmed.dead, trimmed.rejected = dead, rejected
    return trimmed


def trim(run: str, limit: int = 250, *, now: Now = "") -> ScriptCall[Trimmed]:
    """Frees state that nothing needs any more, at most limit of each kind."""
    return ScriptCall("trim", (keys.state(run),), (now, limit), _trimmed)


def _numbers(reply: Any) -> dict[str, str]:
    parts = texts(reply)
    return dict(zip(parts[::2], parts[1::2], strict=True))


def stats(run: str, *, now: Now = "") -> ScriptCall[dict[str, str]]:
    """The state hash, the capacity and the size of every set, by name."""
    return ScriptCall("stats", (keys.state(run),), (now,), _numbers)


def _drift(reply: Any) -> dict[str, tuple[int, int]]:
    parts = texts(reply)
    return {parts[i]: (int(parts[i + 1]), int(parts[i + 2])) for i in range(0, len(parts), 3)}


def audit(run: str, *, now: Now = "") -> ScriptCall[dict[str, tuple[int, int]]]:
    """Counters by name: (stored, recomputed)."""
    return ScriptCall("audit", (keys.state(run),), (now,), _drift)


def check(run: str, tasks: Sequence[str], *, now: Now = "") -> ScriptCall[list[str]]:
    """Problems of at most 1000 tasks: not in the set of their state, or with a slot that no session or timer knows."""
    return ScriptCall("check", (keys.state(run),), (now, *tasks), texts)


#: The letter of a slot whose result was accepted.
_DONE = ord("D")


# Not frozen: one is made for each rollout, and a frozen object takes three times as long.
@dataclass(slots=True)
class RolloutRow:
    """One rollout of a batch, without its bytes. `first` is the number of its first claim: its place in the batch.

    The results of its samples are None, until their bytes are read.
    """

    task: str
    priority: int
    oldest: int
    newest: int
    first: int
    payload: bytes
    samples: list[Sample]


@dataclass(frozen=True, slots=True)
class BatchPiece:
    """A piece of a batch: its size and digest as a whole, when it was sealed (0: not known), and the rows asked for."""

    size: int
    sealed: bool
    digest: str
    sealed_ms: int
    rows: tuple[RolloutRow, ...]


def rollout_rows(items: Sequence[bytes]) -> Iterator[RolloutRow]:
    """Reads the rows of a batch from their list: of each its id, record, payload, and the record of each later slot.

    The records are in the layout of Lua (`lua/include/record_layout.lua`).
    """
    at = 0
    while at < len(items):
        parts = items[at + 1].split(b",", 12)
        later = at + 2 + int(parts[3])
        yield _rollout_row(items[at].decode(), parts, items[at + 2], items[at + 3 : later])
        at = later


def _rollout_row(task: str, parts: Sequence[bytes], payload: bytes, later: Sequence[bytes]) -> RolloutRow:
    _, priority, _, _, _, _, first, oldest, newest, _, _, _, slots = parts
    letters, _, slot = slots.partition(b";")
    samples: list[Sample] = []
    for k, record in enumerate((slot, *later)):
        if letters[k] == _DONE:
            claims, _, random, version, _, session, at, took, used, _ = record.decode().split(",")
            attempt = f"{task}#{k}.{claims}.{random}"
            claimed_ms = int(at)
            # A release that measured no lengths left how the attempt before ended, or nothing.
            submitted_at = (claimed_ms + int(took)) / 1000 if took.isdecimal() else None
            sample = Sample(
                attempt, k, None, int(version), int(used), worker_of(session), "", claimed_ms / 1000, submitted_at
            )
            samples.append(sample)
    return RolloutRow(task, int(priority), int(oldest), int(newest), int(first), payload, samples)


def _piece(reply: Any) -> BatchPiece:
    return BatchPiece(int(reply[0]), bool(reply[1]), text(reply[2]), int(reply[3]), tuple(rollout_rows(reply[4:])))


def batch(run: str, step: int, offset: int, count: int, *, now: Now = "") -> ScriptCall[BatchPiece]:
    """Rows offset to offset + count of a batch (count 0: only its size)."""
    return ScriptCall("batch", (keys.state(run),), (now, step, offset, count), _piece)


@dataclass(frozen=True, slots=True)
class SessionRow:
    """A worker process, connected until its lease has passed.

    `reason` is why its last claim got less than it asked for; empty: it got all; None: it never claimed.
    `lease_ms` is the length of its lease, which each sign of life begins anew.
    """

    session: str
    deadline_ms: int
    held: int
    reason: str | None = None
    lease_ms: int = 0

    def silent_s(self, now_ms: int) -> float:
        """How long ago its last sign of life was, in seconds."""
        return max(0, now_ms - self.deadline_ms + self.lease_ms) / 1000


@dataclass(frozen=True, slots=True)
class HeldRow:
    """A slot that an attempt holds, and when the lease of its session ends.

    Args:
        tries: how many tries the slot has used up, of `max_attempts`: the task's own, else the run's.
        timeout_ms: how long the attempt may take, milliseconds: the task's own, else the run's; 0: no limit.
        again: whether the attempt before expired.
    """

    attempt_id: str
    session: str
    version: int
    at_ms: int
    deadline_ms: int
    tries: int = 0
    max_attempts: int = 0
    timeout_ms: int = 0
    again: bool = False


@dataclass(frozen=True, slots=True)
class Holding:
    """Totals over the sessions of a run; the lists of `Facts` are cut.

    Args:
        counted: sessions looked at. If the run has more, the other numbers are too small.
        busy: connected sessions that hold attempts.
        held: slots that connected sessions hold.
        lost: slots of sessions that have been silent for longer than their lease; claims take them back.
    """

    counted: int
    busy: int
    held: int
    lost: int


@dataclass(frozen=True, slots=True)
class HaltRow:
    """A task whose failure is one of those that halted the run: the session that had it, when, and the error."""

    task: str
    session: str
    at_ms: int
    error: str


@dataclass(frozen=True, slots=True)
class Halt:
    """What halted a run.

    Args:
        failures: so many failures without an accepted result between them.
        at_ms: when, on the run's clock.
        workers: names of the workers that had the attempts, at most 100.
        errors: of the tasks that failed, the last one first; the list is cut.
    """

    failures: int
    at_ms: int
    workers: tuple[str, ...]
    errors: tuple[HaltRow, ...]


def _halt(reply: Any) -> Halt | None:
    if not reply:
        return None
    rows = tuple(HaltRow(text(r[0]), text(r[1]), int(r[2]), r[3].decode(errors="replace")) for r in reply[3:])
    return Halt(int(reply[0]), int(reply[1]), tuple(texts(reply[2])), rows)


@dataclass(frozen=True, slots=True)
class Facts:
    """Answer of explain: sessions, held slots of the oldest running tasks, the oldest tasks, and what is due next.

    `sessions` and `held` are cut; `holding` has the totals.
    `due` gives the time by kind, in milliseconds of the run's clock, deadlines included; 0: none is due.
    """

    now: int
    sessions: tuple[SessionRow, ...]
    held: tuple[HeldRow, ...]
    due: dict[str, int]
    oldest_pending: str
    oldest_ready: str
    holding: Holding
    halt: Halt | None = None


_TIMERS: tuple[str, ...] = ("delayed", "retries", "deadlines", "sessions")


def _facts(reply: Any) -> Facts:
    sessions = tuple(SessionRow(text(s[0]), int(s[1]), int(s[2]), _reason(text(s[3])), int(s[4])) for s in reply[1])
    held = tuple(HeldRow(text(h[0]), text(h[1]), *map(int, h[2:8]), again=int(h[8]) == 1) for h in reply[2])
    due = dict(zip(_TIMERS, (int(float(d)) for d in reply[3]), strict=True))
    holding = Holding(*map(int, reply[6]))
    return Facts(int(reply[0]), sessions, held, due, text(reply[4]), text(reply[5]), holding, _halt(reply[7]))


def _reason(stored: str) -> str | None:
    return "" if stored == "-" else stored or None


def facts(run: str, limit: int = 50, worker: str = "", *, now: Now = "") -> ScriptCall[Facts]:
    """The facts behind `broker explain`; with the name of a worker, `sessions` are its own."""
    return ScriptCall("explain", (keys.state(run),), (now, limit, worker), _facts)
