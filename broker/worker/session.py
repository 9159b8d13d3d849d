"""A worker's session with one run: its lease, its claims, what it holds."""

from __future__ import annotations

import logging
import os
import secrets
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from broker.connections.base import BaseTransport
from broker.errors import BrokerError, CodecError, NoResult, NoRun, NoSession, TooBig
from broker.protocol import keys, worker
from broker.protocol.ids import worker_of
from broker.protocol.script_call import ScriptCall
from broker.protocol.worker import ACCEPTED, Answer, Claimed, Joined, Renewed, Submission
from broker.values.arguments import check_type
from broker.values.attempt import Attempt
from broker.values.codec import decode, encode
from broker.values.policy import Policy
from broker.worker.handler_outcome import sendable, words_of
from broker.worker.repeated_warning import RepeatedWarning

_log = logging.getLogger("broker")

#: Attempts of one submit or claim call.
ITEMS_PER_CALL = 64
#: Bytes of results above which a submit call is closed earlier.
BYTES_PER_CALL = 8 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class Submitted:
    """What became of a result or an attempt given back.

    Args:
        answer: `accepted`, `rejected`, `superseded`, `stale`, `unknown`, or for attempts given back `released`,
            `retried`, `failed`.
        why: how the attempt ended where the answer is `unknown`.
        by_attempt: the attempt that holds the slot instead, where superseded.
        by_worker: its worker.
        age_s: since when, in seconds.
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


class Session:
    """One run as a worker sees it.

    Shared between the worker's thread and its heartbeat: everything they both touch is under one lock.

    Args:
        io: sends its calls.
        run: name of the run.
        worker_name: name of the worker.
        lease_ms: lease asked for, 0: the run's.
        clock: injected time in milliseconds, or None.
    """

    def __init__(
        self, io: BaseTransport, run: str, worker_name: str, lease_ms: int, clock: Callable[[], int] | None
    ) -> None:
        self._io = io
        self.run = run
        self.reason = ""
        self._due_at: float | None = None  # when a retry or a lease is due, by time.monotonic; None: none is known
        self.run_policy: Policy | None = None
        self._worker, self._lease_asked, self._clock = worker_name, lease_ms, clock
        self._joined: Joined | None = None
        self._number = 0  # of the newest claim sent
        self._settled = 0  # of the newest claim whose answer was dealt with, or that was given up
        self._held: dict[str, Attempt] = {}
        self._blob: tuple[int, bytes | None] = (0, None)  # its number on the server, and the bytes
        self._claimed_policy: Policy | None = None  # that of the newest claim
        self.policy: Policy | None = None  # the weights that the worker has loaded for this run; None: the current ones
        self.missing = RepeatedWarning()  # that the run is not there
        self.ask_weights_at = 0.0  # by time.monotonic: not earlier is its user asked for newer weights
        self._lock = threading.Lock()
        #: Called after it has joined, from whichever thread that was.
        self.on_joined: Callable[[], None] = lambda: None
        #: Attempts of the last claim, and what is wrong with their payloads.
        self._unreadable: list[tuple[str, str]] = []

    @property
    def now(self) -> int | None:
        """The injected clock in milliseconds, or None."""
        return None if self._clock is None else self._clock()

    @property
    def id(self) -> str:
        """The session's id, empty before it has joined."""
        return self._joined.session if self._joined else ""

    @property
    def marker(self) -> str:
        """Key of the marker that says there may be work."""
        return keys.key(self.run, "wake")

    @property
    def revoked_marker(self) -> str | None:
        """Key of the marker that says that the server has taken back something it holds; None before it has joined."""
        joined = self._joined
        return None if joined is None else keys.key(self.run, f"revoked:{joined.session}")

    @property
    def is_claiming(self) -> bool:
        """Whether a claim's answer is still to come: of what it grants, a heartbeat sent meanwhile says nothing."""
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

    async def join(self) -> None:
        """Starts a session; what an earlier one held is lost."""
        nonce = secrets.token_hex(6)
        joined = await self._io.call(worker.join(self.run, self._worker, nonce, self._lease_asked, now=self.now))
        with self._lock:
            self._joined, self._number, self._settled = joined, 0, 0
            self.run_policy = _policy(self.run_policy, joined.version, joined.epoch)
        self.on_joined()

    def lost(self) -> None:
        """The server does not know the session any more: its attempts were given to others."""
        with self._lock:
            self._joined = None
            for attempt in self._held.values():
                attempt.mark_cancelled("expired")
            self._held.clear()

    def claim_call(self, n: int, policy: Policy | None) -> ScriptCall[Claimed]:
        """The next claim."""
        self._number += 1
        loaded = _named(policy)
        random = os.urandom(4).hex()
        return worker.claim(
            self.run, self.id, self._number, n, random, policy=loaded, blob_seq=self._blob[0], now=self.now
        )

    async def claim(self, n: int, policy: Policy | None) -> list[Attempt]:
        """Asks for up to n attempts, at most 64; joins first, or anew, where needed."""
        for _ in range(2):
            if self._joined is None:
                await self.join()
            try:
                claimed = await self._io.call(self.claim_call(n, policy))
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
        """Whether `claim_waking` is possible: an injected clock is to be read when the waiting is over."""
        return self._joined is not None and self._clock is None

    async def claim_waking(self, n: int, seconds: float, ended: Callable[[], bool]) -> list[Attempt] | None:
        """Waits for the marker and asks for up to n attempts of the current policy, in one round trip.

        Args:
            n: most attempts wanted, at most 64.
            seconds: how long to wait for the marker.
            ended: whether nothing is to be claimed any more.

        Returns:
            What was claimed; None where the claim was not made, or not answered.
        """
        call = self.claim_call(n, None)
        try:
            outcomes = await self._io.wait_and_execute((self.marker,), seconds, (call,))
            if outcomes is None and not ended():
                # What became of it is unknown, if it was sent: the same claim again has its effect once.
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
        """Reads a claim's answer; what it granted is held from now on, what cannot be read is failed for good."""
        attempts = self._take_in(claimed)
        unreadable, self._unreadable = self._unreadable, []
        try:
            for attempt_id, problem in unreadable:
                _log.warning("the payload of attempt %s cannot be read: %s", attempt_id, problem)
                report = worker.fail(self.run, attempt_id, f"payload: {problem}", may_retry=False, now=self.now)
                await self._io.execute((report,))
        except BaseException:
            self.forget(attempt.id for attempt in attempts)  # nobody will hear of them
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
        self.run_policy = _policy(self.run_policy, claimed.run_version, claimed.run_epoch)
        policy = self._claimed_policy = _policy(self._claimed_policy, claimed.version, claimed.epoch)
        attempts = self._attempts(claimed, policy)
        with self._lock:
            for attempt in attempts:
                self._held[attempt.id] = attempt
            self._settled = self._number
        return attempts

    def _attempts(self, claimed: Claimed, policy: Policy) -> list[Attempt]:
        run, version, blob = self.run, claimed.version, self._blob[1]
        attempts: list[Attempt] = []
        for attempt_id, task, slot, _, tries, samples, raw in claimed.slots():
            try:
                payload = decode(raw)
            except CodecError as error:
                self._unreadable.append((attempt_id, str(error)))
                continue
            attempts.append(Attempt(attempt_id, run, task, slot, payload, version, policy, samples, tries, blob))
        return attempts

    def give_up(self) -> None:
        """The answer of the newest claim is not waited for any more.

        The heartbeat gives back what it may have granted.
        """
        with self._lock:
            self._settled = self._number

    @property
    def blob(self) -> bytes | None:
        """The newest blob that came with a claim, or None."""
        return self._blob[1]

    def renew_call(self) -> ScriptCall[Renewed] | None:
        """The heartbeat with what is held now, or None before the session has joined."""
        with self._lock:
            if self._joined is None:
                return None
            return worker.renew(self.run, self.id, self._settled, list(self._held), now=self.now)

    def renewed(self, session: str, answer: Renewed | BrokerError) -> list[Attempt]:
        """Reads a heartbeat's answer: what is over is cancelled, and held no more. Returns what is newly cancelled."""
        if isinstance(answer, NoSession):
            if session == self.id:
                self.lost()
            return []
        if isinstance(answer, BrokerError):
            return []
        self.run_policy = _policy(self.run_policy, answer.run_version, answer.run_epoch)
        cancelled: list[Attempt] = []
        with self._lock:
            for attempt_id, why in answer.abandon.items():
                attempt = self._held.pop(attempt_id, None)
                if attempt is not None and attempt.mark_cancelled(why):
                    cancelled.append(attempt)
        return cancelled

    def submission(self, attempt: Attempt, result: Any, policy: Policy | None = None) -> Submission:
        """One result, encoded; refuses one that is too large."""
        used = None if policy is None else _named(policy)
        body = encode(result)
        joined = self._joined
        if joined is not None and len(body) > joined.max_result_bytes:
            raise TooBig(what="result", subject=attempt.id, size=len(body), limit=joined.max_result_bytes)
        return Submission(attempt.id, True, body, used)

    def rejection(self, attempt: Attempt, reason: str) -> Submission:
        """The verdict that a rollout must not be trained on; a reason of more than 2000 bytes is cut."""
        return Submission(attempt.id, False, _words("reason", reason).encode())

    async def submit(
        self, items: Sequence[Submission], then: tuple[ScriptCall[Any], ...] = ()
    ) -> tuple[list[Submitted], list[Any]]:
        """Submits at most 64 results or verdicts in one round trip; other script calls may ride along.

        Returns:
            An answer for each item, and the outcomes of the others.
        """
        ttl = self._joined.result_ttl_ms if self._joined else 3_600_000
        others: list[Any] | None = None
        for _ in range(3):
            call = worker.submit(self.run, items, result_ttl_ms=ttl, now=self.now)
            outcomes = await self._io.execute((call, *(then if others is None else ())))
            answers: list[Answer] | BrokerError = outcomes[0]
            if others is None:
                others = outcomes[1:]
            if isinstance(answers, BrokerError):
                raise answers
            if answers.count(ACCEPTED) == len(answers) or all(answer.word != "noresult" for answer in answers):
                self.forget([item.attempt_id for item in items])
                return [submitted(answer) for answer in answers], others
        raise NoResult(attempt=items[0].attempt_id)

    async def release(self, attempts: Sequence[str]) -> list[Submitted]:
        """Gives attempts back without penalty."""
        answers = await self._io.call(worker.release(self.run, attempts, now=self.now))
        self.forget(attempts)
        return [submitted(answer) for answer in answers]

    async def fail(self, attempt: Attempt, error: str | BaseException, *, retry: bool) -> Submitted:
        """Reports an error of the attempt."""
        call = worker.fail(self.run, attempt.id, _words("error", error), may_retry=retry, now=self.now)
        answer = await self._io.call(call)
        self.forget([attempt.id])
        self._due_at = 0.0  # a retry may be due earlier than the last claim told: nobody waits before they ask again
        return submitted(answer)

    @property
    def due_in_s(self) -> float | None:
        """Seconds until something is due that only a claim finds, as far as the last one told; None: nothing is."""
        return None if self._due_at is None else max(0.0, self._due_at - time.monotonic())

    async def leave(self) -> None:
        """Ends the session; what it holds is released at once."""
        joined = self._joined
        if joined is None:
            return
        with suppress(NoRun):  # of a run that is not there nothing is held
            while not await self._io.call(worker.leave(self.run, joined.session, now=self.now)):
                pass  # it holds more than one call gives back
        with self._lock:
            self._joined = None
            self._held.clear()

    def works_on(self, attempt: Attempt) -> bool:
        """Whether a result of this attempt is still to come."""
        return attempt.id in self._held and not attempt.cancelled

    def forget(self, attempts: Iterable[str]) -> None:
        """These are not worked on any more."""
        with self._lock:
            for attempt in attempts:
                self._held.pop(attempt, None)


_ACCEPTED = Submitted("accepted")


def submitted(answer: Answer) -> Submitted:
    """An answer in the client's words."""
    if answer is ACCEPTED:
        return _ACCEPTED
    return Submitted(answer.word, answer.why, answer.by_attempt, worker_of(answer.by_session), answer.age_ms / 1000)


def _policy(known: Policy | None, version: int, epoch: str) -> Policy:
    """The policy of that version and epoch: the known one, if it is."""
    if known is not None and known.version == version and known.epoch == epoch:
        return known
    return Policy(version=version, epoch=epoch)


def _named(policy: Policy | None) -> tuple[int, str] | None:
    """The version and epoch of weights that a caller names."""
    check_policy("policy", policy)
    return None if policy is None else (policy.version, policy.epoch)


def check_policy(name: str, policy: object) -> None:
    """Refuses what names no weights."""
    if policy is not None:
        check_type(name, policy, Policy, "a broker.Policy, or None for the current one")


def _words(name: str, given: str | BaseException) -> str:
    """What somebody says of an attempt, as text that can be sent."""
    if isinstance(given, BaseException):
        return words_of(given)
    check_type(name, given, str, "a str")
    return sendable(given)
