"""Decides after which failures a call is sent again, with which pauses, and for how long."""

import math
import time
from collections.abc import Awaitable, Callable
from typing import TypeVar

from redis.backoff import EqualJitterBackoff

from broker.connections.failures import Failure
from broker.connections.outage import Outage
from broker.errors import AuthenticationFailed, BrokerError, ReadOnlyServer, ServerUnavailable

T = TypeVar("T")

#: Pauses between two tries, seconds: from 0.02, doubled each time, up to 1, minus up to half of it at random.
_PAUSES = EqualJitterBackoff(cap=1.0, base=0.02)

#: The least time for which a server may be silent, seconds, even if less is left: a busy server would seem gone.
_LEAST_S = 1.0


def silence_s(timeout_s: float, left_s: float) -> float:
    """How long a server may be silent, seconds: the time-out, or the time that is left if that is shorter."""
    return min(timeout_s, max(left_s, _LEAST_S))


class Patience:
    """How long calls to one address are tried again. Threads and tasks may share it.

    Args:
        url: the address, for messages.
        retry_for_s: for how long after the first try another may begin, seconds; infinity: always.
        silent_s: how long a try waits for a silent server, seconds. If the first try broke in the middle of a long
            transfer, that try counts as this long at most, because the server was not silent.
        pause: waits for some seconds.
        failed: called with each failure before the next try.

    Attributes:
        outage: the client's.
    """

    def __init__(
        self,
        url: str,
        retry_for_s: float,
        silent_s: float,
        pause: Callable[[float], Awaitable[None]],
        failed: Callable[[Failure], None],
    ) -> None:
        self._url = url
        self.outage = Outage()
        self.retry_for_s, self._silent_s = retry_for_s, silent_s
        self._pause, self._failed = pause, failed

    async def persist(
        self,
        once: Callable[[float], Awaitable[T]],
        failed: Failure | None = None,
        since: float | None = None,
        patience_s: float = math.inf,
    ) -> T:
        """Calls `once` until it no longer raises a Failure that passes.

        Args:
            once: one try. Its argument is the moment, on the monotonic clock, until which a server may be silent.
            failed: the failure of a first try that the caller has made, if it failed.
            since: when that first try began, on the monotonic clock, seconds; None: the caller has made none.
            patience_s: for how long to try where that is shorter than usual, seconds; then the caller says what failed.

        Raises:
            ServerUnavailable: all tries failed for `retry_for_s`; or one did, if a try takes longer.
            ReadOnlyServer: the server took no writes for that time.
            AuthenticationFailed: it refused what the user's `credentials` gave for that time, or they raised.
            BrokerError: the failure is permanent (see `broker.connections.failures`); raised at once.
        """
        failures, retry_for_s, is_met = 0, min(patience_s, self.retry_for_s), False
        # A silent server costs its time-out before the first failure is known: the caller's wait includes it.
        since = time.monotonic() if since is None else since
        try:
            while True:
                if failed is None:
                    try:
                        result = await once(since + retry_for_s)
                    except Failure as failure:
                        failed = failure
                    else:
                        if is_met:
                            self.outage.over("%s answers again, after %.1f s", self._url, time.monotonic() - since)
                        return result
                self._failed(failed)
                if not failed.kind.passes:
                    raise failed.told(self._url) from failed
                now = time.monotonic()
                if failures == 0 and failed.moved:
                    since = max(since, now - self._silent_s)
                failures += 1
                seconds = pause_s(failures)
                if now + seconds > since + retry_for_s:
                    raise self._given_up(failed, now - since) from failed
                # A pooled connection that the server had closed is not worth a message; a second failure is.
                if failures == 2 and math.isinf(patience_s):
                    how_long = "until it answers" if math.isinf(self.retry_for_s) else f"for {self.retry_for_s:g} s"
                    is_met = True
                    self.outage.met("%s: %s; trying %s", self._url, failed, how_long)
                failed = None
                await self._pause(seconds)
        finally:
            if is_met:
                self.outage.left()

    def _given_up(self, failed: Failure, seconds: float) -> BrokerError:
        error = failed.told(self._url)
        if isinstance(error, ReadOnlyServer | AuthenticationFailed):
            return error
        return ServerUnavailable(url=self._url, seconds=round(seconds, 1), error=str(failed))


def pause_s(failures: int) -> float:
    """The pause after some failures in a row, seconds; 0 before the second try."""
    return _PAUSES.compute(min(failures - 2, 10)) if failures > 1 else 0.0
