"""Script calls of workers; that of `submit` is in `result_bytes.py`."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal

from broker.protocol import keys
from broker.protocol.parsing import text, texts
from broker.protocol.script_call import Now, ScriptCall
from broker.values.verdict import Verdict


@dataclass(frozen=True, slots=True)
class Joined:
    """A new session: its id, its lease in milliseconds, the run's policy and clock, and its limits for results."""

    session: str
    lease_ms: int
    version: int
    epoch: str
    now: int
    max_result_bytes: int
    result_ttl_ms: int


def _joined(reply: Any) -> Joined:
    session, lease, version, epoch, now, max_bytes, ttl = texts(reply)
    return Joined(session, int(lease), int(version), epoch, int(now), int(max_bytes), int(ttl))


def join(run: str, worker: str, nonce: str, lease_ms: int = 0, *, now: Now = "") -> ScriptCall[Joined]:
    """Starts a session; lease_ms 0 takes the run's lease."""
    return ScriptCall("join", (keys.state(run),), (now, worker, nonce, lease_ms), _joined)


def leave(run: str, session: str, limit: int = 200, *, now: Now = "") -> ScriptCall[bool]:
    """Ends a session and releases its attempts. False: it holds more than limit, call again."""
    return ScriptCall("leave", (keys.state(run),), (now, session, limit), bool)


@dataclass(frozen=True, slots=True)
class Granted:
    """One slot that was handed out."""

    attempt_id: str
    task: str
    slot: int
    claims: int
    tries: int
    samples: int
    payload: bytes


# Not frozen, like the others that are made for each attempt: a frozen object takes three times as long.
@dataclass(slots=True)
class Claimed:
    """Answer of claim. `reason` is empty when all n were handed out; due_in_ms is -1 when nothing is due.

    Args:
        random: the client's part of the attempt ids.
        tasks: four raw values for each task: its id, payload, samples, and `slot claims tries ...`.
    """

    reason: str
    due_in_ms: int
    version: int
    epoch: str
    run_version: int
    run_epoch: str
    blob_seq: int
    blob: bytes
    now: int
    random: str
    tasks: list[Any]

    def slots(self) -> Iterator[tuple[str, str, int, int, int, int, bytes]]:
        """The slots that were handed out, each as the fields of `Granted`, which is faster than making objects."""
        random, parts = self.random, iter(self.tasks)
        for raw_id, payload, raw_samples, numbers in zip(parts, parts, parts, parts, strict=True):
            task, samples = raw_id.decode(), int(raw_samples)
            for slot, claims, tries in _slots(numbers):
                yield f"{task}#{slot}.{claims}.{random}", task, slot, claims, tries, samples, payload

    @property
    def granted(self) -> tuple[Granted, ...]:
        """The slots that were handed out."""
        return tuple(Granted(*fields) for fields in self.slots())


@lru_cache(maxsize=256)
def _slots(numbers: bytes) -> tuple[tuple[int, int, int], ...]:
    """Reads `slot claims tries ...` of a task; most tasks have the same."""
    each = iter(map(int, numbers.split()))
    return tuple(zip(each, each, each, strict=True))


def _claimed_with(random: str) -> Callable[[Any], Claimed]:
    def parse(reply: Any) -> Claimed:
        reason, due, version, epoch, run_version, run_epoch, blob_seq, blob, now, *tasks = reply
        if len(tasks) % 4:
            raise ValueError("a task without its slots")
        return Claimed(
            reason.decode(),
            int(due),
            int(version),
            epoch.decode(),
            int(run_version),
            run_epoch.decode(),
            int(blob_seq),
            blob,
            int(now),
            random,
            tasks,
        )

    return parse


def claim(
    run: str,
    session: str,
    number: int,
    n: int,
    random: str,
    *,
    policy: tuple[int, str] | None = None,
    limit: int = 100,
    blob_seq: int = 0,
    now: Now = "",
) -> ScriptCall[Claimed]:
    """Asks for up to n slots. The same number and random part again get the same answer.

    Args:
        number: of this claim within the session, from 1.
        random: the client's part of the attempt ids, letters and digits.
        policy: version and epoch of the weights that the worker has loaded; None: the run's current one.
        limit: how many due leases, retries and time-outs the call takes back, of each kind.
        blob_seq: number of the blob that the worker has; 0: none.
    """
    version, epoch = policy or ("", "")
    args = (now, session, number, n, version, epoch, random, limit, blob_seq)
    return ScriptCall("claim", (keys.state(run),), args, _claimed_with(random))


@dataclass(frozen=True, slots=True)
class Renewed:
    """Answer of renew: the clock and the new deadline (ms), the run's policy and mode.

    `abandon` says which attempts to give up, and why.
    """

    now: int
    deadline: int
    run_version: int
    run_epoch: str
    paused: str
    abandon: dict[str, str]


def _renewed(reply: Any) -> Renewed:
    now, deadline, version, epoch, paused, *rest = texts(reply)
    return Renewed(int(now), int(deadline), int(version), epoch, paused, dict(zip(rest[::2], rest[1::2], strict=True)))


def renew(run: str, session: str, number: int, held: Sequence[str], *, now: Now = "") -> ScriptCall[Renewed]:
    """Renews the lease. `number`: the last claim whose answer the worker has dealt with."""
    return ScriptCall("renew", (keys.state(run),), (now, session, number, *held), _renewed)


@dataclass(slots=True)
class Submission:
    """One result or verdict.

    Args:
        attempt_id: the attempt.
        verdict: on the rollout.
        body: the encoded result; for `reject`, the reason in words.
        policy: newest version and epoch that was used; None: those of the claim.
    """

    attempt_id: str
    verdict: Verdict
    body: bytes
    policy: tuple[int, str] | None = None


@dataclass(frozen=True, slots=True)
class Answer:
    """What became of an attempt.

    `word` is `accepted`, `rejected`, `superseded`, `stale`, `unknown`, `noresult`, `released`, `retried` or `failed`.
    `why` says how the attempt ended, for `unknown`. The other fields say who holds the slot instead, and for how many
    milliseconds.
    """

    word: str
    why: str = ""
    by_attempt: str = ""
    by_session: str = ""
    age_ms: int = 0


def answer(line: Any) -> Answer:
    """Reads one line of an answer of submit, release or fail."""
    word, *rest = text(line).split()
    if word == "superseded":
        return Answer(word, "", rest[0], rest[1], int(rest[2]))
    return Answer(word, rest[0] if rest else "")


#: Nearly every answer is this one; callers compare by identity.
ACCEPTED = Answer("accepted")
_COMMON = {b"accepted": ACCEPTED}


def answers(reply: Any) -> list[Answer]:
    """Reads the answer of submit or release."""
    return [_COMMON.get(line) or answer(line) for line in reply]


def release(run: str, attempts: Sequence[str], *, now: Now = "") -> ScriptCall[list[Answer]]:
    """Gives at most 1000 attempts back without penalty."""
    return ScriptCall("release", (keys.state(run),), (now, *attempts), answers)


#: Longest traceback that goes with a failure, bytes.
TRACE_BYTES = 4000
#: Whose fault a failure is.
FailureKind = Literal["task", "worker"]


def fail(
    run: str,
    attempt_id: str,
    message: str,
    *,
    may_retry: bool,
    kind: FailureKind = "task",
    trace: str = "",
    now: Now = "",
) -> ScriptCall[Answer]:
    """Reports an error of the attempt; message is cut to 2000 bytes, trace to its last 4000 (`TRACE_BYTES`)."""
    cut, last = message.encode()[:2000], trace.encode(errors="backslashreplace")[-TRACE_BYTES:]
    args = (now, attempt_id, cut, int(may_retry), kind, last)
    return ScriptCall("fail", (keys.state(run),), args, answer)
