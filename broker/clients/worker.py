"""The synchronous worker."""

from __future__ import annotations

import functools
import inspect
import logging
import os
import threading
import time
from collections.abc import Callable, Coroutine, Generator, Iterable, Iterator, Sequence
from contextlib import closing
from types import TracebackType
from typing import Any, Self

from broker.clients.background import stack_of
from broker.clients.base import BlockingClient
from broker.connections import (
    DEFAULT_RETRY_FOR_S,
    DEFAULT_TIMEOUT_S,
    HEARTBEAT_ENDS_WITHIN_S,
    Credentials,
    open_transport,
    url_or_variable,
)
from broker.errors import BadArgument, BrokerError
from broker.protocol.worker import FailureKind
from broker.values import spans
from broker.values.attempt import Attempt
from broker.values.hooks import check_plain_hook
from broker.values.policy import Policy
from broker.worker.claims_and_results import WorkerCalls, number_wanted
from broker.worker.grace import Grace, grace_of
from broker.worker.handler_ends import HandlerEnds
from broker.worker.handler_outcome import During, check_plain_handler, judged, not_plain
from broker.worker.heartbeat import Heartbeat, interval_of
from broker.worker.permits import LOOK_EVERY_S, LOST_AFTER_S, Permits
from broker.worker.session import Submitted
from broker.worker.signals import TerminationAsExit
from broker.worker.state import LoadWeights, Policies, StaleWeights, WorkerState, default_name
from broker.worker.time_to_end import TimeToEnd

_log = logging.getLogger(__name__)

_FORKED = (
    "this worker was opened before a fork, and its sessions belong to that process: open another one in the child; "
    "what it holds may be submitted from there"
)


class Worker(BlockingClient):
    """A worker: claims attempts, renews its lease from a thread, submits results.

    As a context manager it gives its attempts back when the block ends, also by Ctrl-C or SIGTERM. When the block
    ends with its own exception, `sys.exit` included, the oldest attempt has failed: so a task that ends its workers
    is not handed out for ever.
    A forked child may submit results of its parent's attempts; to claim, it opens its own worker.

    Args:
        url: the server; None: the environment variable BROKER_URL.
        run: name of the run, or several in order of preference.
        name: shown to people; None: host and process id.
        lease_s: seconds without a sign of life after which the attempts go to other workers; None: the run's lease.
        policy: the loaded weights; None: the worker always generates with `attempt.version`. For several runs, a
            mapping from the run's name to a Policy or None, as each run has its own versions and epochs. A run that
            the mapping leaves out has None.
        on_weights_stale: called with a run's policy and newest blob when the loaded weights are too old to start the
            run's work. Returns the policy that was loaded, or None to be called again. With several runs it is called
            for each; a hook with a parameter `run` gets the run's name. Nothing is claimed while it is called.
        load_weights: called with a version and the path of its weights, which a `broker.weights.Publisher` wrote;
            whenever a claim tells of newer weights, and before any attempt of theirs is handed out. Other handlers may
            be generating meanwhile: their results name these weights as the newest ones used. A hook with a parameter
            `run` gets the run's name. Attempts of an evaluation bring their own weights: `broker.weights.fetched`. In
            place of `policy` and `on_weights_stale`.
        weights_cache: a folder of this host in which to keep copies of weights, fetched once for all of its workers;
            None: as `broker.weights.fetched`.
        clock: injected time in milliseconds, for tests.
        heartbeat: False: the caller renews the lease itself, with `renew`.
        wait_for_run_s: how long to wait for a run that is not there (yet, or any more), in seconds. Of several runs,
            opening waits for one, and claims look for the others; after that time the worker goes on without those
            that are not there, as long as one is. None: a run that was never there is an error at once, as its name
            may be misspelt; one that vanished while the worker served it is waited for without limit.
        heartbeat_s: how often to renew the lease, in seconds; at most half of the lease. None: a third of it.
        grace_s: how long to finish what is held after SIGTERM, in seconds. Nothing more is claimed; loops and `run` end
            when nothing is held, and then the `with` block does. What is not finished in time is given back. A second
            SIGTERM gives it back at once. 0: the first one does.
        credentials: called at each new connection; returns user and password, and perhaps for how many seconds they
            are valid. For tokens that are replaced; threads of the worker may call it. None: the URL's are used.
        timeout_s: how long the server may be silent before the connection counts as lost, in seconds.
        retry_for_s: for how long after its first try a call may be tried again, in seconds; `math.inf`: for ever.

    Raises:
        NoRun: a run does not exist, or none came within `wait_for_run_s`; claims may raise it too.
        ServerUnavailable: no answer.
    """

    def __init__(
        self,
        url: str | None = None,
        run: str | Sequence[str] = "",
        *,
        name: str | None = None,
        lease_s: float | None = None,
        policy: Policies = None,
        on_weights_stale: StaleWeights | None = None,
        load_weights: LoadWeights | None = None,
        weights_cache: str | os.PathLike[str] | None = None,
        clock: Callable[[], int] | None = None,
        heartbeat: bool = True,
        wait_for_run_s: float | None = None,
        heartbeat_s: float | None = None,
        grace_s: float = 0.0,
        credentials: Credentials | None = None,
        timeout_s: float = DEFAULT_TIMEOUT_S,
        retry_for_s: float = DEFAULT_RETRY_FOR_S,
    ) -> None:
        check_plain_hook("on_weights_stale", on_weights_stale)
        check_plain_hook("load_weights", load_weights)
        grace_s, heartbeat_s = grace_of(grace_s), interval_of(heartbeat_s, lease_s)
        name = default_name() if name is None else name
        opened = functools.partial(open_transport, url_or_variable(url), credentials=credentials)
        transport = opened(timeout_s=timeout_s, retry_for_s=retry_for_s, name=f"broker:worker:{name}")
        super().__init__(transport)
        try:
            self._state = WorkerState(
                transport.io,
                run,
                name=name,
                lease_s=lease_s,
                policy=policy,
                on_weights_stale=on_weights_stale,
                load_weights=load_weights,
                weights_cache=weights_cache,
                clock=clock,
                wait_for_run_s=wait_for_run_s,
            )
        except BaseException:
            transport.close()
            raise
        self._calls = WorkerCalls(transport.io, self._state)
        self._claiming = threading.Lock()
        self._termination = TerminationAsExit(Grace(self._state.name, grace_s, self._begins_grace))
        self._closed = False
        self._refused: BadArgument | None = None  # the handler is one for asyncio
        self._permits: Permits | None = None  # of the present or last `run`
        self._ending = TimeToEnd(lambda: any(self.sessions.values()))
        self._heartbeat = Heartbeat(
            self._transport,
            lambda silent_s: opened(timeout_s=silent_s, retry_for_s=silent_s, name=f"broker:heartbeat:{name}"),
            self._state.sessions.values(),
            _say_cancelled,
            interval_s=heartbeat_s,
        )
        joining = TerminationAsExit()  # until a `with` block installs the worker's own
        try:
            joining.install()
            self._run(self._calls.join())
            if heartbeat:
                self._heartbeat.start()
        except BaseException:  # also when a signal raises: only this worker can end the sessions that have joined
            self.close()
            raise
        finally:
            joining.remove()

    @property
    def name(self) -> str:
        """The worker's name."""
        return self._state.name

    @property
    def policy(self) -> Policies:
        """The weights that the worker has loaded; None: always the current ones.

        For several runs, a mapping by their names. The mapping cannot be changed: assign another one.
        """
        return self._state.policy

    @policy.setter
    def policy(self, policy: Policies) -> None:
        self._state.policy = policy

    @property
    def held(self) -> list[Attempt]:
        """The attempts that this worker works on."""
        return self._state.held

    @property
    def claim_reason(self) -> str:
        """Why the last claim gave less than asked.

        `finished` (the run is over), `halted`, `paused`, `recovering`, `weights_stale`, `weights_missing` (published
        weights cannot be had), `faulted` (what waits is what
        this worker has just failed at), `draining`, `empty`, `max_samples`, `max_concurrent`, `at_capacity`, or "".
        """
        return self._state.reason

    @property
    def sessions(self) -> dict[str, str]:
        """The id of this worker's session with each run."""
        return {run: session.id for run, session in self._state.sessions.items()}

    def claim(self, n: int = 1, timeout: float | None = 0.0) -> list[Attempt]:
        """Up to n attempts.

        Args:
            n: most attempts wanted, 1 to 1000.
            timeout: how long to wait for the first attempt, in seconds; None: as long as it takes, or until the run is
                finished.
        """
        n = number_wanted(n)
        attempts = self._claim(n, timeout)
        if self._termination.in_grace and not attempts and timeout != 0:
            time.sleep(LOOK_EVERY_S)  # the caller may claim again at once, while other threads finish
        return attempts

    def _claim(self, n: int, timeout: float | None) -> list[Attempt]:
        self._termination.insist(holds=self._state.holds)
        self._refuse_forked()
        with self._claiming:
            return self._run(self._calls.claim(n, timeout))

    def _refuse_forked(self) -> None:
        if self._transport.is_forked:
            raise BadArgument(problem=_FORKED)

    def __iter__(self) -> Iterator[Attempt]:
        """Attempts one after the other; ends after `stop` or `drain`, or when the run is finished.

        Submitting an attempt claims the next one in the same round trip.
        """
        with closing(self.batches(1)) as batches:
            for batch in batches:
                yield batch[0]

    def batches(self, n: int) -> Generator[list[Attempt]]:
        """Lists of up to n attempts; ends after `stop` or `drain`, or when the run is finished.

        Submitting the last results of a list (`submit_many`) claims the next list in the same round trip.

        Args:
            n: most attempts of a list, 1 to 1000.
        """
        n = number_wanted(n)
        self._termination.insist(holds=self._state.holds)
        self._state.lanes.ask_again()
        try:
            while not self._state.stopping:
                self._termination.insist()
                self._refuse_forked()
                with self._claiming:
                    batch = self._run(self._calls.next_batch(n))
                if not batch:
                    return
                yield batch
        finally:
            ahead = self._calls.end_batches()
            if ahead and not self._closed and not self._transport.is_forked:
                self._run(self._calls.give_back(ahead))

    def submit(self, attempt: Attempt, result: Any, *, policy: Policy | None = None) -> Submitted:
        """Submits a result. A result that is submitted again counts once.

        Args:
            attempt: what the result is of.
            result: `bytes`, or anything that the codec takes (NumPy arrays included).
            policy: the newest policy that was used, when weights changed during generation.

        Raises:
            TooBig: the result is larger than `max_result_bytes`.
            CodecError: the result holds something that cannot be encoded.
        """
        turn: list[bool] = []
        try:
            self._take_turn_into(turn)
            return self._run(self._calls.submit(attempt, result, policy, claims=bool(turn)))
        finally:
            if turn:
                self._claiming.release()

    def submit_many(self, results: Iterable[tuple[Attempt, Any]]) -> list[Submitted]:
        """Submits many results, 64 in a round trip; an answer for each, in order.

        Args:
            results: pairs of an attempt and its result.
        """
        turn: list[bool] = []
        try:
            self._take_turn_into(turn)
            return self._run(self._calls.submit_many(results, claims=bool(turn)))
        finally:
            if turn:
                self._claiming.release()

    def _take_turn_into(self, turn: list[bool]) -> None:
        """Puts an item into an empty list if results may claim the next batch: the claiming lock was free, and is held.

        Results never wait for another thread that waits for work. The lock is taken and noted in one call of a function
        in C: between the two no signal handler runs, so none that raises leaves the lock held.
        """
        if self._calls.iterating and not self._transport.is_forked:
            turn.extend(filter(None, map(self._claiming.acquire, (False,))))

    def reject(self, attempt: Attempt, reason: str = "") -> Submitted:
        """The verdict that this rollout must not be trained on; final for its slot."""
        return self._run(self._calls.reject(attempt, reason))

    def release(self, attempts: Attempt | Iterable[Attempt]) -> list[Submitted]:
        """Gives attempts back without penalty."""
        return self._run(self._calls.release(attempts))

    def fail(
        self, attempt: Attempt, error: str | BaseException, kind: FailureKind = "task", *, retry: bool = True
    ) -> Submitted:
        """Reports that the attempt could not be finished.

        Args:
            attempt: what could not be finished.
            error: why. Words are cut after 2000 bytes; of an exception's traceback the last 4000 bytes are kept.
            kind: `task`: the slot is tried again after a pause, up to `max_attempts` times. `worker`: the fault is this
                worker's. Another worker tries the slot, which costs no attempt. Faults of three different sessions at
                one slot count as one failure of the task. A `WorkerFault` is always the worker's.
            retry: False: the slot has failed for good; not with `worker`.

        Raises:
            BadArgument: kind is another word, or retry is False for a worker's fault.
        """
        return self._run(self._calls.session_of(attempt).fail(attempt, error, kind, retry=retry))

    def renew(self) -> None:
        """Renews the leases now (the heartbeat does so by itself). A forked child may not call it."""
        self._refuse_forked()  # attempts that the parent has claimed since would be given back
        self._heartbeat.beat()

    def run(self, handler: Callable[[Attempt], Any], concurrency: int = 1) -> None:
        """Works until `stop`, `drain`, Ctrl-C or the run's end: claims, calls the handler in threads, submits results.

        A handler that goes on for a second after its attempt was taken back is lost; its place goes to another attempt.

        Args:
            handler: returns the result, or raises Reject to reject the rollout, or WorkerFault where this worker cannot
                do its work, so that another one tries. Any other exception, `SystemExit` included, is a failure that is
                retried. A result that cannot be encoded or is too large is a failure that is not retried.
            concurrency: attempts at the same time.

        Raises:
            BadArgument: the handler is an `async def` function or cannot be called, or it returned an awaitable (the
                attempts are given back), or concurrency is below 1.
            HandlersLost: the handlers of all places are lost. The other handlers have ended; end the process.
        """
        if concurrency < 1:
            raise BadArgument(argument="concurrency", given=concurrency, expected="at least 1")
        check_plain_handler(handler)
        self._termination.insist(holds=self._state.holds)
        self._refused = None
        self._state.lanes.ask_again()
        permits = self._permits = Permits(self._state, concurrency)
        ends = HandlerEnds()
        threads: dict[str, threading.Thread] = {}
        try:
            self._hand_out(handler, permits, threads, ends)
            while not (self._refused or self._state.stopping or permits.is_idle):
                ends.wait(LOOK_EVERY_S)
                permits.look()
        except KeyboardInterrupt:
            self.stop()
        if self._refused or self._state.stopping:
            self._give_back()
        if self._refused:
            raise self._refused
        if permits.are_lost and not self._state.stopping:
            raise permits.error(lambda attempt: stack_of(threads[attempt.id]))

    def _hand_out(
        self,
        handler: Callable[[Attempt], Any],
        permits: Permits,
        threads: dict[str, threading.Thread],
        ends: HandlerEnds,
    ) -> None:
        """Claims for the free places, until the worker is told to stop or drain, or its runs are finished."""
        while not (self._refused or self._state.stopping or self._state.is_over):
            ends.forget()
            permits.look()
            if permits.are_lost:
                return
            if permits.room <= 0:
                ends.wait(LOOK_EVERY_S)
                continue
            is_idle = permits.is_idle
            if self._refused:  # set by a handler before it ends: looked at last, not missed
                return
            # A handler that works may be lost meanwhile.
            attempts = self._claim(min(1000, permits.room), None if is_idle else LOST_AFTER_S)
            for attempt_id in [name for name, thread in threads.items() if not thread.is_alive()]:
                del threads[attempt_id]
            for attempt in attempts:
                permits.take(attempt)
                threads[attempt.id] = threading.Thread(
                    target=self._handle,
                    args=(handler, attempt, permits, ends),
                    name=f"broker-{attempt.id}",
                    daemon=True,  # a lost handler must not keep the process from ending
                )
                threads[attempt.id].start()

    def _handle(self, handler: Callable[[Attempt], Any], attempt: Attempt, permits: Permits, ends: HandlerEnds) -> None:
        try:
            self._work_on(handler, attempt)
        finally:
            permits.give(attempt)
            ends.tell()

    def _work_on(self, handler: Callable[[Attempt], Any], attempt: Attempt) -> None:
        during: During = "handler"
        try:
            result = handler(attempt) if (active := spans.active) is None else active.handle(handler, attempt)
            if inspect.isawaitable(result):
                if inspect.iscoroutine(result):
                    result.close()
                self._refused = not_plain(handler)  # `run` gives the attempt back
                return
            if attempt.cancelled:
                self._state.sessions[attempt.run].forget([attempt.id])
                return
            during = "encoding"
            submission = self._state.sessions[attempt.run].submission(attempt, result)
            during = "sending"
            self._run(self._calls.hand_in(attempt, submission))
        except BaseException as error:  # noqa: BLE001 - whatever a handler does, its attempt ends with it
            self._run(self._calls.fail_attempt(attempt, error, judged(error, during)))

    def _give_back(self) -> None:
        held = self._state.held
        for attempt in held:
            attempt.mark_cancelled("stopped")
        if held:
            self._finish(self._calls.release(held))

    def _finish(self, ending: Coroutine[Any, Any, object]) -> None:
        """Makes a call that ends the work, for a limited time: the process may be killed soon after."""
        try:
            self._run_within(ending, self._ending.begin())
        except BrokerError as error:
            self._ending.failed(error)

    def _begins_grace(self) -> bool:
        """Makes the worker claim nothing more if it has something to finish; called by the handler of SIGTERM."""
        if self._closed or self._transport.is_forked or not self._state.holds:
            return False
        self.drain()
        return True

    def drain(self) -> None:
        """Claims nothing more; finishes the attempts that it has. Any thread may call it."""
        self._state.draining = True
        self._transport.interrupt()

    def stop(self) -> None:
        """Claims nothing more and gives the attempts back. Any thread or signal handler may call it."""
        self._state.stopping = True
        self._transport.interrupt()

    def close(self) -> None:
        """Gives the attempts back, ends the sessions, closes the connections. In a forked child: only the last."""
        if self._closed:
            return
        self._termination.hold_off(insisted_on=True)
        try:
            if not self._transport.is_forked:
                self._give_all_back()
            self._closed = True
            self._transport.close()
        finally:
            self._termination.remove()

    def _give_all_back(self) -> None:
        self._heartbeat.end()  # also when this is interrupted: the leases are not renewed for ever
        self.stop()
        self._heartbeat.stop(HEARTBEAT_ENDS_WITHIN_S)
        for attempt in self._state.held:
            attempt.mark_cancelled("stopped")
        self._finish(self._calls.leave())

    def __enter__(self) -> Self:
        self._termination.install()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if error is not None and not (self._closed or self._transport.is_forked):
                attempt = self._calls.worked_on(self._permits.attempts if self._permits is not None else ())
                ending = judged(error, "block")
                if attempt is not None and ending.how != "released":  # the other attempts are given back in any case
                    self._finish(self._calls.fail_attempt(attempt, error, ending))
        finally:
            self.close()


def _say_cancelled(attempt: Attempt) -> None:
    _log.info("attempt %s is of no use any more (%s)", attempt.id, attempt.cancel_reason)
