"""The calls of a worker of one or several runs: it claims, submits and gives back."""

from __future__ import annotations

import logging
from collections.abc import Container, Iterable, Sequence
from typing import Any

from broker.connections.base import BaseTransport
from broker.errors import BadArgument, BrokerError, NoRun, NoSession
from broker.errors.words import count
from broker.protocol.worker import Submission
from broker.values.arguments import check_type, one_or_several, seconds_of, several, shown, whole
from broker.values.attempt import Attempt
from broker.values.policy import Policy
from broker.worker.handler_outcome import Outcome, traceback_of, words_of
from broker.worker.session import BYTES_PER_CALL, ITEMS_PER_CALL, Session, Submitted
from broker.worker.state import WorkerState
from broker.worker.wait_for_work import WaitForWork

_log = logging.getLogger(__name__)


def number_wanted(n: int) -> int:
    """Checks a number of attempts that is asked for at once."""
    return whole("n", n, 1, 1000)


class WorkerCalls:
    """The calls of one worker.

    Args:
        io: sends them.
        state: the worker's, which each call reads and changes.
    """

    def __init__(self, io: BaseTransport, state: WorkerState) -> None:
        self._io, self.state = io, state
        self._batch_size = 0  # attempts of a batch while batches are iterated over, else 0
        self._batch: list[Attempt] = []  # the batch that was handed out last
        self._ahead: list[Attempt] = []  # the next batch, claimed by the call that submitted the last results
        self._ahead_for: Policy | None = None  # the policy that was loaded when `_ahead` was claimed
        self._is_told = False  # whether that claim found no work for `_ahead_for`
        self._waiting = WaitForWork(io, state)

    @property
    def iterating(self) -> bool:
        """Whether submitting may claim the next batch."""
        return self._batch_size > 0

    def session_of(self, attempt: Attempt) -> Session:
        """The session that an attempt belongs to."""
        try:
            return self.state.sessions[attempt.run]
        except (AttributeError, KeyError, TypeError):
            check_type("attempt", attempt, Attempt, "an Attempt that this worker claimed")
            raise BadArgument(
                argument="attempt", given=f"one of run {attempt.run}", expected="one that this worker claimed"
            ) from None

    async def join(self) -> None:
        """Starts the sessions, so that a missing run is reported at once.

        A worker that waits for its runs waits here until one of them is there: claims go on looking for the others.
        """
        if not self.state.waits_for_run:
            for session in self.state.sessions.values():
                await session.join()
            return
        sessions = self.state.sessions.values()
        while not self.state.ended:
            for session in sessions:
                try:
                    await session.join()
                except NoRun as error:
                    self._missed(session, error)
            if any(session.id for session in sessions):
                return
            await self._waiting.for_missing_runs()

    def _missed(self, session: Session, error: NoRun) -> None:
        """A run is not there. Raises the error if no other one is there, and each was waited for long enough."""
        others = [other for other in self.state.sessions.values() if other is not session]
        session.missing.missed(error, has_others=any(not other.missing.is_over for other in others))

    async def claim_once(self, n: int, there: Sequence[Attempt] = ()) -> list[Attempt]:
        """Up to n attempts, from the preferred run first, 64 in a round trip; `there` are the first of them."""
        attempts = list(there)
        try:
            await self._waiting.load_weights()
            passed_over = await self.state.lanes.ask(n, attempts, lambda one, s: self._claim_of(one, s, n, attempts))
            await self._waiting.pass_on(passed_over)
        except BrokerError as error:
            if not attempts:
                raise
            _log.debug("claimed %d of %d: %s", len(attempts), n, error)  # the next claim meets the same error
        except BaseException:  # cancelled: the caller will not get these attempts
            self._forget(attempts)
            raise
        return await self._with_weights(attempts)

    async def _with_weights(self, attempts: list[Attempt]) -> list[Attempt]:
        """Loads the weights of the newest versions that are known; gives attempts back that are for other weights."""
        weights = self.state.weights
        if weights is None:
            return attempts
        try:
            for session in self.state.sessions.values():
                await weights.load(session, attempts)
            for_these = [attempt for attempt in attempts if weights.are_for(self.session_of(attempt), attempt)]
        except BaseException:
            await self.give_back(attempts)
            raise
        if len(for_these) < len(attempts):
            ids = {attempt.id for attempt in for_these}
            await self.give_back([attempt for attempt in attempts if attempt.id not in ids])
        self._forget(attempt for attempt in for_these if attempt.cancelled)  # while the weights were loaded
        return [attempt for attempt in for_these if not attempt.cancelled]

    async def _claim_of(self, session: Session, patience_s: float, n: int, attempts: list[Attempt]) -> None:
        """Adds what one run gives, up to n attempts; one that is not there gives nothing, and its session is over."""
        if self.state.weights is not None and self.state.weights.must_wait(session):
            return
        try:
            while len(attempts) < n:
                wanted = min(n - len(attempts), ITEMS_PER_CALL)
                claimed = await session.claim(wanted, session.policy, patience_s)
                attempts += claimed
                if len(claimed) < wanted:
                    return
        except NoRun as error:
            # A server that lost everything is refilled by the trainer's recovery; the worker waits for it.
            session.lost()
            self._missed(session, error)

    def _forget(self, attempts: Iterable[Attempt]) -> None:
        """Forgets attempts that are not worked on; the heartbeat gives back those that the session holds."""
        for attempt in attempts:
            self.session_of(attempt).forget([attempt.id])

    async def give_back(self, attempts: Sequence[Attempt]) -> None:
        """Releases attempts that the caller has not got."""
        try:
            await self.release(attempts)
        except BaseException as error:
            self._forget(attempts)
            if not isinstance(error, BrokerError):
                raise
            _log.debug("the heartbeat gives %s back: %s", count(len(attempts), "attempt"), error)

    async def claim(self, n: int, timeout_s: float | None, *, is_told: bool = False) -> list[Attempt]:
        """Waits until there is something to do; empty after the time-out, or when draining, stopped or finished.

        Args:
            n: most attempts wanted.
            timeout_s: how long to wait, in seconds; None: for ever.
            is_told: whether a claim has just been answered with less than it asked for.
        """
        timeout_s = seconds_of("timeout", timeout_s)
        until = self._waiting.deadline(timeout_s)
        attempts: list[Attempt] = []
        while not self.state.ended:
            if not attempts and not is_told:
                attempts = await self.claim_once(n)
            if attempts:
                return attempts
            if self.state.lanes.are_finished:
                self.state.lanes.tell_finished(self.state.activity)
                return []
            if (left := self._waiting.left_s(until)) <= 0:
                return []
            claimed = await self._waiting.wait(n, left)
            if claimed is not None and self.state.weights is not None:
                claimed = await self._with_weights(claimed)
            if claimed and self.session_of(claimed[0]).policy is not None:
                # The policy was set meanwhile: these attempts were claimed for other weights.
                await self.give_back(claimed)
                claimed = None
            attempts, is_told = claimed or [], claimed is not None  # that answer says what another claim would say
        return attempts

    async def next_batch(self, n: int) -> list[Attempt]:
        """The next batch of an iteration, of up to n attempts; empty when it is over."""
        ahead, self._ahead = self._ahead, []
        policy = next(iter(self.state.sessions.values())).policy  # of several runs nothing is claimed ahead
        is_told, self._is_told = self._is_told and self._ahead_for is policy, False
        if ahead and self._ahead_for != policy:  # these attempts were claimed for other weights
            await self.give_back(ahead)
            ahead = []
        attempts = [attempt for attempt in ahead if not attempt.cancelled]
        self._forget(attempt for attempt in ahead if attempt.cancelled)
        if not attempts:
            attempts = await self.claim(n, None, is_told=is_told)
        elif len(attempts) == ITEMS_PER_CALL < n and not self.state.ended:
            attempts = await self.claim_once(n, attempts)
        self._batch_size, self._batch = n, attempts
        return attempts

    def end_batches(self) -> list[Attempt]:
        """Ends the iteration. Returns the attempts that were claimed ahead, to be given back."""
        ahead, self._ahead, self._batch, self._batch_size, self._is_told = self._ahead, [], [], 0, False
        return ahead

    def may_claim(self, session: Session) -> bool:
        """Whether a claim may be sent with results.

        With several runs it may not, for the preferred one comes first; nor with `load_weights`, as results do not wait
        for weights.
        """
        is_single = len(self.state.sessions) == 1 and self.state.weights is None
        return not self.state.ended and is_single and bool(session.id)

    def _claims_ahead(self, session: Session, items: Sequence[Submission]) -> bool:
        """Whether the next batch is claimed with these results: the last ones of the batch that was handed out."""
        if not self._batch_size or self._ahead or not self.may_claim(session):
            return False
        if len(self._batch) == 1:
            return True
        handed_in = {item.attempt_id for item in items}
        return all(attempt.id in handed_in or not session.works_on(attempt) for attempt in self._batch)

    async def submit(
        self, attempt: Attempt, result: Any, policy: Policy | None = None, *, claims: bool = False
    ) -> Submitted:
        """Submits one result; with `claims` the call may also claim the next batch of an iteration."""
        session = self.session_of(attempt)
        return (await self._submit_piece(session, [session.submission(attempt, result, policy)], claims))[0]

    async def submit_many(self, results: Iterable[tuple[Attempt, Any]], *, claims: bool = False) -> list[Submitted]:
        """Submits results in pieces of one round trip each; an answer for each, in order. `claims`: as `submit`."""
        answers: list[Submitted] = []
        piece: list[Submission] = []
        size, session = 0, next(iter(self.state.sessions.values()))
        for pair in several("results", results, "pairs of an Attempt and its result"):
            try:
                attempt, result = pair
                run = attempt.run
            except (TypeError, ValueError, AttributeError) as error:
                raise BadArgument(
                    argument="results", given=f"with {shown(pair)}", expected="pairs of an Attempt and its result"
                ) from error
            if run != session.run:
                if piece:
                    answers += await self._submit_piece(session, piece, claims)
                    piece, size = [], 0
                session = self.session_of(attempt)
            submission = session.submission(attempt, result)
            if piece and (len(piece) == ITEMS_PER_CALL or size + len(submission.body) > BYTES_PER_CALL):
                answers += await self._submit_piece(session, piece, claims)
                piece, size = [], 0
            piece.append(submission)
            size += len(submission.body)
        if piece:
            answers += await self._submit_piece(session, piece, claims)
        return answers

    async def _submit_piece(self, session: Session, items: Sequence[Submission], claims: bool) -> list[Submitted]:
        """Submits in one round trip; it also claims the next batch of an iteration if these end the present one."""
        if not (claims and self._claims_ahead(session, items)):
            return (await session.submit(items))[0]
        self._ahead_for = session.policy
        answers, ahead = await self.submit_and_claim(session, items, self._batch_size)
        self._ahead, self._is_told = ahead or [], ahead == []
        if not self.iterating:  # another thread or task has ended the iteration meanwhile
            await self.give_back(self.end_batches())
        return answers

    async def submit_and_claim(
        self, session: Session, items: Sequence[Submission], n: int
    ) -> tuple[list[Submitted], list[Attempt] | None]:
        """Submits at most 64 results and claims up to n attempts, at most 64, in one round trip.

        Returns:
            An answer for each item, and the attempts; None where the claim failed: the next one meets the same error.
        """
        following = session.claim_call(min(n, ITEMS_PER_CALL), session.policy)
        try:
            answers, outcomes = await session.submit(items, (following,))
        except BaseException:
            session.give_up()
            raise
        try:
            return answers, await session.taken_in(outcomes[0])
        except NoSession:
            session.lost()
        except BrokerError as error:
            _log.debug("nothing was claimed with the results: %s", error)
        return answers, None

    async def hand_in(self, attempt: Attempt, submission: Submission) -> Submitted:
        """Submits a result that is encoded."""
        return (await self._submit_piece(self.session_of(attempt), [submission], claims=False))[0]

    async def fail_attempt(self, attempt: Attempt, error: BaseException, outcome: Outcome) -> None:
        """Reports an attempt that an exception ended, and forgets it.

        If the report fails, that is logged, not raised: the heartbeat gives the attempt back.

        Args:
            attempt: what was worked on.
            error: the exception that ended it.
            outcome: what the exception means, from `judged`.
        """
        session = self.session_of(attempt)
        is_failure = outcome.how == "failed" and not attempt.cancelled
        try:
            if attempt.cancelled:
                return
            if outcome.verdict is not None:
                await session.submit([session.verdict(attempt, outcome.verdict, outcome.reason)])
            elif outcome.how == "failed":
                trace = traceback_of(error)
                await session.fail(attempt, outcome.reason, outcome.kind, retry=outcome.retry, trace=trace)
            elif not self.state.stopping:
                _log.warning("attempt %s is given back: %s", attempt.id, words_of(error, str))
        except BrokerError as unreported:
            if not self.state.stopping:
                _log.warning("attempt %s could not be reported: %s", attempt.id, unreported)
        finally:
            session.forget([attempt.id])
            if is_failure:  # last: what the user's logging makes of the exception may take long, or raise
                self.state.activity.tell_failure(attempt, error, outcome.reason)

    def worked_on(self, elsewhere: Container[str]) -> Attempt | None:
        """The attempt that fails when an exception ends a `with` block of the worker: the oldest that was handed out.

        This is right for attempts that are worked on one after the other. Of several at a time, it is one of them.

        Args:
            elsewhere: ids of the attempts that handlers of `run` work on; their handlers end them.
        """
        ahead = {attempt.id for attempt in self._ahead}
        there = (a for a in self.state.held if a.id not in elsewhere and a.id not in ahead and not a.cancelled)
        return next(there, None)

    async def reject(self, attempt: Attempt, reason: str) -> Submitted:
        """The verdict that the rollout must not be trained on."""
        session = self.session_of(attempt)
        answers, _ = await session.submit([session.verdict(attempt, "reject", reason)])
        return answers[0]

    async def release(self, attempts: Attempt | Iterable[Attempt]) -> list[Submitted]:
        """Gives attempts back without penalty; an answer for each, in order."""
        given = list(one_or_several("attempts", attempts, Attempt, "an Attempt that this worker claimed, or several"))
        answers: dict[str, Submitted] = {}
        by_run: dict[str, list[str]] = {}
        for attempt in given:
            by_run.setdefault(self.session_of(attempt).run, []).append(attempt.id)
        failed: BrokerError | None = None
        for run, ids in by_run.items():
            try:
                for at in range(0, len(ids), 200):
                    piece = ids[at : at + 200]
                    answers.update(zip(piece, (await self.state.sessions[run].release(piece)), strict=True))
            except BrokerError as error:  # attempts of the other runs are given back in any case
                failed = failed or error
        if failed is not None:
            raise failed
        return [answers[attempt.id] for attempt in given]

    async def leave(self) -> None:
        """Ends all sessions; their attempts are released at once. Raises the first error after trying all."""
        failed: BrokerError | None = None
        for session in self.state.sessions.values():
            try:
                await session.leave()
            except BrokerError as error:
                failed = failed or error
        if failed is not None:
            raise failed
