"""The synchronous worker."""

from __future__ import annotations

import inspect
import logging
import threading
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import closing, contextmanager
from types import TracebackType
from typing import Any, Self

from broker.connections import open_transport
from broker.driver import Driver
from broker.errors import BadArgument, BrokerError, Reject, ServerUnavailable
from broker.handlers import check_plain_handler, log_failure, not_plain
from broker.heartbeat import Heartbeat
from broker.models import Attempt, Policy
from broker.session import Submitted
from broker.termination import TerminationAsExit
from broker.worker_core import WorkerCore, number_wanted

_log = logging.getLogger("broker")

_FORKED = (
    "this worker was opened before a fork, and its sessions belong to that process: open another one in the child; "
    "what it holds may be submitted from there"
)

StaleWeights = Callable[[Policy, "bytes | None"], "Policy | None"]


class Worker:
    """A worker: claims attempts, renews its lease from a thread, submits results.

    As a context manager it gives back what it holds when the block ends for whatever reason, Ctrl-C and SIGTERM
    included. A forked child may submit what its parent holds; to claim it opens a worker of its own.

    Args:
        url: the server.
        run: name of the run, or several in order of preference.
        name: shown to people; None: host and process id.
        lease_s: time without a sign of life after which its attempts go to others, in seconds; None: the run's.
        policy: the weights it has loaded; None: it always generates with `attempt.version`.
        on_weights_stale: called with the run's policy and newest blob when `policy` is too old to start work
            with; returns the policy it has loaded, or None to be asked again.
        clock: injected time in milliseconds, for tests.
        heartbeat: False: the caller renews the lease itself, with `renew`.

    Raises:
        NoRun: a run does not exist.
        ServerUnavailable: no answer.
    """

    def __init__(
        self,
        url: str,
        run: str | Sequence[str],
        *,
        name: str | None = None,
        lease_s: float | None = None,
        policy: Policy | None = None,
        on_weights_stale: StaleWeights | None = None,
        clock: Callable[[], int] | None = None,
        heartbeat: bool = True,
    ) -> None:
        self._core = WorkerCore(run, name, lease_s, policy, clock)
        self._core.on_weights_stale = on_weights_stale
        self._driver = Driver(open_transport(url))
        self._claiming = threading.Lock()
        self._termination = TerminationAsExit()
        self._closed = False
        self._refused: BadArgument | None = None  # the handler turned out to be one for asyncio
        self._heartbeat = Heartbeat(self._driver.transport, url, self._core.sessions.values(), _say_cancelled)
        try:
            self._driver.run(self._core.join())
            if heartbeat:
                self._heartbeat.start()
        except BaseException:  # a signal's, too: nobody else has what has joined
            self.close()
            raise

    @property
    def name(self) -> str:
        """The worker's name."""
        return self._core.name

    @property
    def policy(self) -> Policy | None:
        """The weights that it has loaded, None: always the current ones."""
        return self._core.policy

    @policy.setter
    def policy(self, policy: Policy | None) -> None:
        self._core.policy = policy

    @property
    def held(self) -> list[Attempt]:
        """The attempts it works on."""
        return self._core.held

    @property
    def claim_reason(self) -> str:
        """Why the last claim gave less than asked.

        `empty`, `at_capacity`, `max_concurrent`, `paused`, `recovering`, `weights_stale`, `draining`, or nothing.
        """
        return self._core.reason

    @property
    def sessions(self) -> dict[str, str]:
        """The id of its session with each run."""
        return {run: session.id for run, session in self._core.sessions.items()}

    def claim(self, n: int = 1, timeout: float | None = 0.0) -> list[Attempt]:
        """Up to n attempts.

        Args:
            n: most attempts wanted, 1 to 1000.
            timeout: how long to wait for the first, in seconds; None: as long as it takes.
        """
        n = number_wanted(n)
        return self._claim(n, timeout)

    def _claim(self, n: int, timeout: float | None, *, asked: bool = False) -> list[Attempt]:
        self._termination.insist()
        self._refuse_forked()
        with self._claiming:
            return self._driver.run(self._core.claim(n, timeout, asked=asked))

    def _refuse_forked(self) -> None:
        if self._driver.transport.is_forked:
            raise BadArgument(problem=_FORKED)

    def __iter__(self) -> Iterator[Attempt]:
        """Attempts one after the other, for ever; ends after `stop` or `drain`.

        Submitting one claims the next in the same round trip.
        """
        with closing(self.batches(1)) as batches:
            for batch in batches:
                yield batch[0]

    def batches(self, n: int) -> Generator[list[Attempt]]:
        """Lists of up to n attempts, as many as there are, for ever; ends after `stop` or `drain`.

        Submitting the last results of one (`submit_many`) claims the next in the same round trip.

        Args:
            n: most attempts of a batch, 1 to 1000.
        """
        n = number_wanted(n)
        try:
            while not self._core.stopping:
                self._termination.insist()
                self._refuse_forked()
                with self._claiming:
                    batch = self._driver.run(self._core.next_batch(n))
                if not batch:
                    return
                yield batch
        finally:
            ahead = self._core.end_batches()
            if ahead and not self._closed and not self._driver.transport.is_forked:
                self._driver.run(self._core.give_back(ahead))

    def submit(self, attempt: Attempt, result: Any, *, policy: Policy | None = None) -> Submitted:
        """Submits a result. Sent again, it has its effect once.

        Args:
            attempt: what the result is of.
            result: `bytes`, or anything that the codec takes (NumPy arrays included).
            policy: the newest policy used, where weights changed during generation.

        Raises:
            TooBig: the result is larger than `max_result_bytes`.
            CodecError: the result holds something that cannot be encoded.
        """
        with self._may_claim() as claims:
            return self._driver.run(self._core.submit(attempt, result, policy, claims=claims))

    def submit_many(self, results: Iterable[tuple[Attempt, Any]]) -> list[Submitted]:
        """Submits many results, 64 in a round trip; an answer for each, in order.

        Args:
            results: pairs of an attempt and its result.
        """
        with self._may_claim() as claims:
            return self._driver.run(self._core.submit_many(results, claims=claims))

    @contextmanager
    def _may_claim(self) -> Generator[bool]:
        """Whether results may claim the next batch. Results do not wait for a loop in another thread to find work."""
        claims = (
            self._core.iterating and not self._driver.transport.is_forked and self._claiming.acquire(blocking=False)
        )
        try:
            yield claims
        finally:
            if claims:
                self._claiming.release()

    def reject(self, attempt: Attempt, reason: str = "") -> Submitted:
        """The verdict that this rollout must not be trained on; final for its slot."""
        return self._driver.run(self._core.reject(attempt, reason))

    def release(self, attempts: Attempt | Iterable[Attempt]) -> list[Submitted]:
        """Gives attempts back without penalty."""
        return self._driver.run(self._core.release(attempts))

    def fail(self, attempt: Attempt, error: str | Exception, *, retry: bool = True) -> Submitted:
        """Reports that the attempt could not be finished.

        With retry it is tried again after a pause, until max_attempts.
        """
        return self._driver.run(self._core.session_of(attempt).fail(attempt, error, retry=retry))

    def renew(self) -> None:
        """Renews the leases now (the heartbeat does so by itself). Not in a forked child, as for claims."""
        self._refuse_forked()  # what the parent has claimed since would count as held by nobody
        self._heartbeat.beat()

    def run(self, handler: Callable[[Attempt], Any], concurrency: int = 1) -> None:
        """Works until `stop` or `drain`: claims, calls the handler in threads, submits what it returns.

        Args:
            handler: returns the result; raises Reject to reject the rollout; any other exception counts as a
                failure that is retried.
            concurrency: attempts at the same time.

        Raises:
            BadArgument: the handler is an `async def` function or cannot be called, or returned something to be
                awaited (what is held is given back), or concurrency is below 1.
        """
        if concurrency < 1:
            raise BadArgument(argument="concurrency", given=concurrency, expected="at least 1")
        check_plain_handler(handler)
        self._refused = None
        free = threading.Semaphore(concurrency)
        threads: set[threading.Thread] = set()
        in_vain = False  # whether the last claim was, just now: its wait ended with asking
        while not (self._refused or self._core.stopping or self._core.draining):
            if not free.acquire(timeout=0.2):
                continue
            free.release()
            room = concurrency - sum(thread.is_alive() for thread in threads)
            threads = {thread for thread in threads if thread.is_alive()}
            attempts = self._claim(min(1000, max(1, room)), 1.0, asked=in_vain)
            in_vain = not attempts
            for attempt in attempts:
                free.acquire()
                thread = threading.Thread(
                    target=self._handle, args=(handler, attempt, free), name=f"broker-{attempt.id}", daemon=True
                )
                threads.add(thread)
                thread.start()
        if not (self._refused or self._core.stopping):
            for thread in threads:
                thread.join()
        if self._refused or self._core.stopping:
            self._give_back()
        if self._refused:
            raise self._refused

    def _handle(self, handler: Callable[[Attempt], Any], attempt: Attempt, free: threading.Semaphore) -> None:
        try:
            self._work_on(handler, attempt)
        except BrokerError as error:
            if not self._closed:
                _log.warning("attempt %s could not be reported: %s", attempt.id, error)
        finally:
            if not self._refused:  # nobody works on it any more, reported or not: its lease is not renewed for ever
                self._core.session_of(attempt).forget([attempt.id])
            free.release()

    def _work_on(self, handler: Callable[[Attempt], Any], attempt: Attempt) -> None:
        try:
            result = handler(attempt)
            if inspect.isawaitable(result):
                if inspect.iscoroutine(result):
                    result.close()
                self._refused = not_plain(handler)  # `run` gives the attempt back
                return
            if not attempt.cancelled:
                self.submit(attempt, result)
        except Reject as rejection:
            self.reject(attempt, str(rejection))
        except ServerUnavailable:
            raise
        except Exception as error:  # noqa: BLE001 - whatever the user's handler raises, or a result that cannot be sent
            if not attempt.cancelled:
                log_failure(attempt, error)
                self.fail(attempt, repr(error))

    def _give_back(self) -> None:
        held = self._core.held
        for attempt in held:
            attempt.mark_cancelled("stopped")
        if held:
            self.release(held)

    def drain(self) -> None:
        """Claims nothing more; what is held is finished. From any thread."""
        self._core.draining = True
        self._driver.transport.interrupt()

    def stop(self) -> None:
        """Claims nothing more and gives back what is held. From any thread, or a signal handler."""
        self._core.stopping = True
        self._driver.transport.interrupt()

    def close(self) -> None:
        """Gives back what it holds, ends its sessions, closes the connections. In a forked child only the last."""
        if self._closed:
            return
        self._termination.hold_off()
        try:
            if not self._driver.transport.is_forked:
                self._give_all_back()
            self._closed = True
            self._driver.transport.close()
        finally:
            self._termination.remove()

    def _give_all_back(self) -> None:
        self._heartbeat.end()  # whatever interrupts this: what is held is not renewed for ever
        self.stop()
        self._heartbeat.stop()
        for attempt in self._core.held:
            attempt.mark_cancelled("stopped")
        try:
            self._driver.run(self._core.leave())
        except BrokerError as error:
            _log.warning("what was held is given to others only when its lease runs out: %s", error)

    def __enter__(self) -> Self:
        self._termination.install()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _say_cancelled(attempt: Attempt) -> None:
    _log.info("attempt %s is of no use any more (%s)", attempt.id, attempt.cancel_reason)
