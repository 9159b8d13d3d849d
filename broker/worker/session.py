"""A worker's session with one run: its lease, its claims, its attempts, and how results and verdicts are submitted."""

from __future__ import annotations

import logging
import math
import os
import secrets
import time
from collections.abc import Awaitable, Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, get_args

from broker.connections.base import BaseTransport
from broker.connections.forks import Locked
from broker.errors import BadArgument, BrokerError, CodecError, NoRun, NoSession, TooBig, WorkerFault
from broker.protocol import keys, result_bytes, worker
from broker.protocol.ids import worker_of
from broker.protocol.script_call import Now, ScriptCall
from broker.protocol.worker import ACCEPTED, Answer, Claimed, FailureKind, Joined, Renewed, Submission
from broker.values import spans
from broker.values.arguments import check_type, shown
from broker.values.attempt import Attempt
from broker.values.codec import encode
from broker.values.evaluation_payload import decode_payload
from broker.values.policy import Policy
from broker.values.verdict import ANSWERS, Verdict
from broker.worker.activity import Activity
from broker.worker.exception_parts import is_a
from broker.worker.handler_outcome import sendable, traceback_of, words_of
from broker.worker.missing_run import MissingRun

_log = logging.getLogger(__name__)

#: Attempts of one submit or claim call.
ITEMS_PER_CALL = 64
#: Answers to results and verdicts that count.
_COUNTS = frozenset(ANSWERS.values())
#: Bytes of results above which a submit call has fewer of them.
BYTES_PER_CALL = 8 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class Submitted:
    """What became of a result or an attempt given back.

    Args:
        answer: `accepted`, `rejected`, `superseded`, `stale`, `unknown`, or for attempts given back `released`,
            `retried`, `failed`.
        why: how the attempt ended where the answer is `unknown`.
        by_attempt: where superseded, the attempt that holds the slot instead.
        by_worker: the worker of that attempt.
        age_s: for how many seconds that attempt has held the slot.
    """

    answer: str
    why: str = ""
    by_attempt: str = ""
    by_worker: str = ""
    age_s: float = 0.0

    @property
    def accepted(self) -> bool:
        """Whether the result counts."""
        return self.answer == "accepted"


class Session(Locked):
    """One run as a worker sees it.

    The worker and its heartbeat share it: one lock guards everything that both use.

    Args:
        io: sends its calls.
        run: name of the run.
        worker_name: name of the worker.
        lease_ms: lease asked for, 0: the run's.
        clock: injected time in milliseconds, or None.
        missing: the wait for the run while it is not there.
        activity: told what the worker does.
    """

    def __init__(
        self,
        io: BaseTransport,
        run: str,
        *,
        worker_name: str,
        lease_ms: int,
        clock: Callable[[], int] | None,
        missing: MissingRun,
        activity: Activity,
    ) -> None:
        super().__init__()
        self._io = io
        self.run = run
        self.reason = ""
        self._due_at: float | None = None  # when the next retry or lease is due, by time.monotonic; None: unknown
        self.run_policy: Policy | None = None
        self._worker, self._lease_asked, self._clock = worker_name, lease_ms, clock
        self._joined: Joined | None = None
        self._joining: Callable[[], Awaitable[Joined]] | None = None  # waits for the answer of a join without one
        self._number = 0  # of the newest claim sent
        self._settled = 0  # of the newest claim that was answered or given up
        self._claiming_since_ns = 0  # when the newest claim was sent, for its span
        self._held: dict[str, Attempt] = {}
        self._blob: tuple[int, bytes | None] = (0, None)  # the number of the newest blob on the server, and its bytes
        self._claimed_policy: Policy | None = None  # the policy of the newest claim
        self.blob_policy: Policy | None = None  # the policy that the newest blob came with
        self.loaded: Policy | None = None  # the newest policy whose weights `load_weights` has loaded or is loading
        self._lost: dict[str, Policy] = {}  # by attempt: a policy of a lost future that generated a part of it
        self.policy: Policy | None = None  # the weights that the worker has loaded for this run; None: the current ones
        self.missing, self._activity = missing, activity
        self.ask_weights_at = 0.0  # by time.monotonic: when the user's hook may be asked for newer weights again
        #: Called after it has joined, from the thread that joined.
        self.on_joined: Callable[[], None] = lambda: None
        #: Attempts of the last claim whose payloads cannot be read, and why.
        self._unreadable: list[tuple[str, str]] = []

    @property
    def now(self) -> Now:
        """The injected clock, if there is one."""
        return "" if self._clock is None else self._clock()

    @property
    def id(self) -> str:
        """The session's id, empty before it has joined."""
        return self._joined.session if self._joined else ""

    @property
    def marker(self) -> str:
        """Key of the marker that says there may be work."""
        return keys.wake(self.run)

    @property
    def revoked_marker(self) -> str | None:
        """Key of the marker that says that the server took an attempt back; None before the session has joined."""
        joined = self._joined
        return None if joined is None else keys.wake_session(self.run, joined.session)

    @property
    def is_claiming(self) -> bool:
        """Whether a claim has no answer yet: a heartbeat sent meanwhile does not cover the attempts that it grants."""
        return self._number != self._settled

    @property
    def lease_ms(self) -> int | None:
        """The session's lease, None before it has joined."""
        return self._joined.lease_ms if self._joined else None

    @property
    def held(self) -> list[Attempt]:
        """The attempts that this worker works on, oldest first."""
        with self._lock:
            return list(self._held.values())

    @property
    def holds(self) -> bool:
        """Whether this worker works on any attempt. A signal handler may ask: this takes no lock."""
        return bool(self._held)

    async def join(self, patience_s: float = math.inf) -> None:
        """Starts a session; the attempts of an earlier one are lost. `patience_s`: as `claim`.

        An interrupted join goes on: else nobody would end the session that the server may have started.
        """
        joined = await self._interrupted_join()
        if joined is None:
            nonce = secrets.token_hex(6)
            call = worker.join(self.run, self._worker, nonce, self._lease_asked, now=self.now)
            self._joining = self._io.detached(self._io.call(call, patience_s))
            try:
                joined = await self._joining()
            except BrokerError:
                self._joining = None
                raise
        with self._lock:
            self._joined, self._number, self._settled, self._joining = joined, 0, 0, None
            self.run_policy = _policy(self.run_policy, joined.version, joined.epoch)
        self.missing.found()
        self._activity.started(self.run)
        self.on_joined()

    async def _interrupted_join(self) -> Joined | None:
        """The answer of a join that was interrupted; None: there was none, or it failed."""
        if self._joining is not None:
            try:
                return await self._joining()
            except BrokerError:
                self._joining = None
        return None

    def lost(self) -> None:
        """Notes that the server has forgotten the session: its attempts went to other workers."""
        with self._lock:
            self._joined = None
            gone = list(self._held.values())
            for attempt in gone:
                attempt.mark_cancelled("expired")
            self._held.clear()
        self._end_spans((attempt.id for attempt in gone), "expired")

    def claim_call(self, n: int, policy: Policy | None) -> ScriptCall[Claimed]:
        """The next claim."""
        self._number += 1
        loaded = _named(policy)
        if (active := spans.active) is not None:
            self._claiming_since_ns = active.now_ns()
        random = os.urandom(4).hex()
        return worker.claim(
            self.run, self.id, self._number, n, random, policy=loaded, blob_seq=self._blob[0], now=self.now
        )

    async def claim(self, n: int, policy: Policy | None, patience_s: float = math.inf) -> list[Attempt]:
        """Asks for up to n attempts, at most 64; joins first, or anew, where needed. `patience_s`: as `io.call`."""
        for _ in range(2):
            if self._joined is None:
                await self.join(patience_s)
            try:
                claimed = await self._io.call(self.claim_call(n, policy), patience_s)
            except NoSession:
                self.lost()
            except BaseException:
                self.give_up()
                raise
            else:
                return await self.taken_in(claimed)
        raise NoSession(session=self.id or "a new one", run=self.run)

    @property
    def can_claim_waking(self) -> bool:
        """Whether `claim_waking` is possible. With an injected clock it is not: that is read after the wait."""
        return self._joined is not None and self._clock is None

    async def claim_waking(self, n: int, seconds: float, ended: Callable[[], bool]) -> list[Attempt] | None:
        """Waits for the marker and asks for up to n attempts of the current policy, in one round trip.

        Args:
            n: most attempts wanted, at most 64.
            seconds: how long to wait for the marker.
            ended: whether the worker was told to claim nothing more.

        Returns:
            The attempts; None when the claim was not made, or not answered.
        """
        call = self.claim_call(n, None)
        try:
            outcomes = await self._io.wait_and_execute((self.marker,), seconds, (call,))
            if outcomes is None and not ended():
                # The claim's outcome is unknown: sent again, the same claim has its effect once.
                outcomes = await self._io.execute((call,))
        except BaseException:
            self.give_up()
            raise
        if outcomes is None:
            self.give_up()
            return None
        if isinstance(outcomes[0], NoSession | NoRun):  # the next claim tells which
            self.lost()
            return None
        return await self.taken_in(outcomes[0])

    async def taken_in(self, claimed: Claimed | BrokerError) -> list[Attempt]:
        """Reads a claim's answer. The granted attempts are held from now on; unreadable payloads fail for good."""
        attempts = self._take_in(claimed)
        unreadable, self._unreadable = self._unreadable, []
        try:
            for attempt_id, problem in unreadable:
                _log.warning("the payload of attempt %s cannot be read: %s", attempt_id, problem)
                report = worker.fail(self.run, attempt_id, f"payload: {problem}", may_retry=False, now=self.now)
                await self._io.execute((report,))
        except BaseException:
            self.forget(attempt.id for attempt in attempts)  # the caller will not get these attempts
            raise
        return attempts

    def _take_in(self, claimed: Claimed | BrokerError) -> list[Attempt]:
        if isinstance(claimed, BrokerError):
            self.give_up()
            raise claimed
        if claimed.blob_seq != self._blob[0]:
            self._blob = (claimed.blob_seq, claimed.blob or None)
        self.reason = claimed.reason
        self._due_at = None if claimed.due_in_ms < 0 else time.monotonic() + claimed.due_in_ms / 1000
        self.run_policy = self.blob_policy = _policy(self.run_policy, claimed.run_version, claimed.run_epoch)
        policy = self._claimed_policy = _policy(self._claimed_policy, claimed.version, claimed.epoch)
        attempts = self._attempts(claimed, policy)
        with self._lock:
            for attempt in attempts:
                self._held[attempt.id] = attempt
            self._settled = self._number
        if (active := spans.active) is not None and attempts:
            active.claimed(self._worker, self._claiming_since_ns, attempts)
        self._activity.claimed(self.run, len(attempts))
        if claimed.reason == "quarantined":
            self._activity.quarantined(self.run)
        return attempts

    def _attempts(self, claimed: Claimed, policy: Policy) -> list[Attempt]:
        run, version, blob = self.run, claimed.version, self._blob[1]
        attempts: list[Attempt] = []
        for attempt_id, task, slot, _, tries, samples, raw in claimed.slots():
            try:
                payload, judged = decode_payload(raw)
            except CodecError as error:
                self._unreadable.append((attempt_id, str(error)))
                continue
            attempt = Attempt(attempt_id, run, task, slot, payload, version, policy, samples, tries, blob)
            if judged is not None:
                attempt.version, attempt.policy, attempt.blob = judged.policy.version, judged.policy, judged.blob
                attempt.judges = True
            attempts.append(attempt)
        return attempts

    def give_up(self) -> None:
        """Gives up the newest claim, whose answer will not come.

        The heartbeat gives back the attempts that the claim may have granted.
        """
        with self._lock:
            self._settled = self._number

    @property
    def blob(self) -> bytes | None:
        """The newest blob that came with a claim, or None."""
        return self._blob[1]

    def renew_call(self) -> ScriptCall[Renewed] | None:
        """The script call that renews the lease of all attempts held now; None before the session has joined."""
        with self._lock:
            if self._joined is None:
                return None
            return worker.renew(self.run, self.id, self._settled, list(self._held), now=self.now)

    def renewed(self, session: str, answer: Renewed | BrokerError) -> list[Attempt]:
        """Reads a heartbeat's answer: attempts that are over are cancelled. Returns the newly cancelled ones."""
        if isinstance(answer, NoSession):
            if session == self.id:
                self.lost()
            return []
        if isinstance(answer, BrokerError):
            return []
        self._activity.look()
        self.run_policy = _policy(self.run_policy, answer.run_version, answer.run_epoch)
        cancelled: list[Attempt] = []
        with self._lock:
            for attempt_id, why in answer.abandon.items():
                attempt = self._held.pop(attempt_id, None)
                if attempt is not None and attempt.mark_cancelled(why):
                    cancelled.append(attempt)
        for attempt in cancelled:
            self._end_spans((attempt.id,), attempt.cancel_reason or "")
        return cancelled

    async def loads(self, policy: Policy, fresh: Sequence[Attempt]) -> None:
        """Notes that the hook is about to load other weights: from now on results may be made with them.

        The attempts that are worked on were generated with those before. If a recovery has undone these, the results
        will name them, and the server refuses the results. Otherwise the new ones stand for both: a recovery that
        undoes the older ones undoes the new ones too. All is noted before the hook runs: nothing that fails after it
        can leave a result without the name of weights that made it.

        Args:
            policy: that of the weights.
            fresh: attempts that nobody works on yet.
        """
        before = self.loaded
        # An evaluation has weights of its own.
        begun = {attempt.id for attempt in self.held if not attempt.judges} - {attempt.id for attempt in fresh}
        lost = {attempt: policy for attempt, policy in self._lost.items() if attempt in begun}
        if before is not None and begun and await self._is_lost(before, policy):
            lost = dict.fromkeys(begun, before) | lost
        self._lost, self.loaded = lost, policy  # in this order: another thread may submit

    def keeps_weights(self) -> None:
        """Notes that the run's policy has the weights that are loaded.

        After a recovery it may be an older one: then the loaded weights survive, though the policy that they were
        loaded for does not.
        """
        policy = self.blob_policy
        if self.loaded is not None and policy is not None and policy.version <= self.loaded.version:
            self.loaded = policy

    async def _is_lost(self, before: Policy, policy: Policy) -> bool:
        """Whether a recovery has undone a policy, by the one that the run has now."""
        if before == policy or before.version >= policy.version:
            return before != policy
        if before.epoch == policy.epoch:  # a recovery ends what an epoch makes
            return False
        made_by = await self._io.command("HGET", keys.key(self.run, "policies"), str(before.version))
        return made_by is None or made_by.decode() != before.epoch

    def submission(self, attempt: Attempt, result: Any, policy: Policy | None = None) -> Submission:
        """Encodes one result; refuses one that is too large."""
        if attempt.id in self._lost:
            policy = self._lost[attempt.id]
        elif policy is None and self.loaded is not None and not attempt.judges:
            # They may have been loaded while the rollout was generated.
            policy = self.loaded if self.loaded.version > attempt.version else None
        used = None if policy is None else _used(attempt, policy)
        body = encode(result)
        joined = self._joined
        if joined is not None and len(body) > joined.max_result_bytes:
            raise TooBig(what="result", subject=attempt.id, size=len(body), limit=joined.max_result_bytes)
        if (active := spans.active) is not None and (context := active.submitting(attempt.id)):
            body = spans.with_context(context, body)
        return Submission(attempt.id, "accept", body, used)

    def verdict(self, attempt: Attempt, verdict: Verdict, reason: str) -> Submission:
        """A verdict without a result; a reason of more than 2000 bytes is cut."""
        return Submission(attempt.id, verdict, _words("reason", reason).encode())

    async def submit(
        self, items: Sequence[Submission], then: tuple[ScriptCall[Any], ...] = ()
    ) -> tuple[list[Submitted], list[Any]]:
        """Submits at most 64 results or verdicts in one round trip; other script calls may ride along.

        Returns:
            An answer for each item, and the outcomes of the others.
        """
        ttl_ms = self._joined.result_ttl_ms if self._joined else result_bytes.TTL_MS
        answers, others = await result_bytes.submit(self._io, self.run, items, then=then, ttl_ms=ttl_ms, now=self.now)
        if (active := spans.active) is not None:
            for item, answer in zip(items, answers, strict=True):
                active.answered(item.attempt_id, answer.word)
        self.forget([item.attempt_id for item in items])
        if ACCEPTED in answers:
            self._activity.accepted(self.run)
        self._activity.done(sum(answer.word in _COUNTS for answer in answers))
        return [submitted(answer) for answer in answers], others

    async def release(self, attempts: Sequence[str]) -> list[Submitted]:
        """Gives attempts back without penalty."""
        answers = await self._io.call(worker.release(self.run, attempts, now=self.now))
        self.forget(attempts)
        return [submitted(answer) for answer in answers]

    async def fail(
        self, attempt: Attempt, error: str | BaseException, kind: FailureKind, *, retry: bool, trace: str = ""
    ) -> Submitted:
        """Reports an error of the attempt, with the traceback of one that was raised."""
        words, kind = _words("error", error), _kind(kind, error, retry=retry)
        if isinstance(error, BaseException):
            trace = traceback_of(error)
        call = worker.fail(self.run, attempt.id, words, may_retry=retry, kind=kind, trace=trace, now=self.now)
        answer = await self._io.call(call)
        if (active := spans.active) is not None:
            active.failed(attempt.id, words)
        self.forget([attempt.id])
        self._activity.failed()
        self._due_at = 0.0  # the retry may be due earlier than the last claim said: a wait must ask again first
        return submitted(answer)

    @property
    def due_in_s(self) -> float | None:
        """Seconds until a retry or lease is due, as the last claim said; None: none is known."""
        return None if self._due_at is None else max(0.0, self._due_at - time.monotonic())

    async def leave(self) -> None:
        """Ends the session; its attempts are released at once."""
        joined = self._joined or await self._interrupted_join()
        if joined is None:
            return
        with suppress(NoRun):  # a run that is gone holds no attempts
            while not await self._io.call(worker.leave(self.run, joined.session, now=self.now)):
                pass  # one call did not give all attempts back
        with self._lock:
            self._joined, gone = None, list(self._held)
            self._held.clear()
        self._end_spans(gone, "released")

    def works_on(self, attempt: Attempt) -> bool:
        """Whether a result of this attempt is still to come."""
        return attempt.id in self._held and not attempt.cancelled

    def forget(self, attempts: Iterable[str]) -> None:
        """Forgets these attempts: they are not worked on any more."""
        with self._lock:
            gone = [attempt for attempt in attempts if self._held.pop(attempt, None) is not None]
        self._end_spans(gone, "released")

    @staticmethod
    def _end_spans(attempts: Iterable[str], why: str) -> None:
        """Ends the spans of attempts that no answer has ended. Not under the lock: an exporter may take its time."""
        if (active := spans.active) is not None:
            for attempt in attempts:
                active.left(attempt, why)


_ACCEPTED = Submitted("accepted")


def submitted(answer: Answer) -> Submitted:
    """An answer in the client's words."""
    if answer is ACCEPTED:
        return _ACCEPTED
    return Submitted(answer.word, answer.why, answer.by_attempt, worker_of(answer.by_session), answer.age_ms / 1000)


def _policy(known: Policy | None, version: int, epoch: str) -> Policy:
    """The policy of that version and epoch; the known object if it is the same policy."""
    if known is not None and known.version == version and known.epoch == epoch:
        return known
    return Policy(version=version, epoch=epoch)


def _named(policy: Policy | None) -> tuple[int, str] | None:
    """The version and epoch of weights that a caller names."""
    check_policy("policy", policy)
    return None if policy is None else (policy.version, policy.epoch)


def _used(attempt: Attempt, policy: Policy) -> tuple[int, str] | None:
    """The version and epoch of the newest weights that an attempt used; of an evaluation its own run knows none."""
    used = _named(policy)
    if not attempt.judges:
        return used
    if policy != attempt.policy:
        expected = "that of the attempt: an evaluation judges one policy"
        raise BadArgument(argument="policy", given=policy, expected=expected)
    return None


def check_policy(name: str, policy: object) -> None:
    """Refuses a value that names no weights."""
    if policy is not None:
        check_type(name, policy, Policy, "a broker.Policy, or None for the current one")


def _kind(given: FailureKind, error: str | BaseException, *, retry: bool) -> FailureKind:
    """Checks whose fault a failure is; a WorkerFault is the worker's in any case."""
    if given not in get_args(FailureKind):
        raise BadArgument(argument="kind", given=shown(given), expected="'task' or 'worker'")
    kind = "worker" if isinstance(error, BaseException) and is_a(error, WorkerFault) else given
    if kind == "worker" and not retry:
        raise BadArgument(
            argument="retry", given="False", expected="True for a worker's fault: another worker may do it"
        )
    return kind


def _words(name: str, given: str | BaseException) -> str:
    """A reason that a caller gives, as text to send."""
    if isinstance(given, BaseException):
        return words_of(given)
    check_type(name, given, str, "a str")
    return sendable(given)
