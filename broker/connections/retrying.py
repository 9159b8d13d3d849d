"""Sends again: after which failures, with which pauses, and for how long."""

import logging
import math
import time
from collections.abc import Awaitable, Callable
from typing import TypeVar

from redis.backoff import EqualJitterBackoff

from broker.errors import BrokerError, ReadOnlyServer, ServerUnavailable

log = logging.getLogger("broker")
T = TypeVar("T")

#: Pauses between two tries, seconds: from 0.02, doubled each time, up to 1, minus up to half of it at random.
_PAUSES = EqualJitterBackoff(cap=1.0, base=0.02)


class Again(Exception):
    """The same bytes are to be sent again.

    Args:
        reason: what happened.
        error: what to raise for it in the end, where the server did answer.
    """

    def __init__(self, reason: str, error: BrokerError | None = None) -> None:
        super().__init__(reason)
        self.error = error


class Patience:
    """How long the calls to one address go on.

    Args:
        url: the address, for messages.
        retry_for_s: how long after the first try began another one may begin, seconds; infinity: always.
        silent_s: how long a try waits for a silent server, seconds; what took longer was transferring meanwhile.
        pause: waits for some seconds.
    """

    def __init__(
        self, url: str, retry_for_s: float, silent_s: float, pause: Callable[[float], Awaitable[None]]
    ) -> None:
        self._url = url
        self._retry_for_s, self._silent_s = retry_for_s, silent_s
        self._pause = pause

    async def persist(
        self, once: Callable[[], Awaitable[T]], failed: Again | None = None, since: float | None = None
    ) -> T:
        """Calls `once` until it no longer raises Again.

        Args:
            once: one try.
            failed: what came of a first try that was made before, if it failed.
            since: when that one began, on the monotonic clock, seconds; None: there was none.

        Raises:
            ServerUnavailable: it raised it for `retry_for_s`, or once where one try takes longer.
            ReadOnlyServer: the server took no writes for so long.
        """
        failures = 0
        # A silent server costs its time-out before the first failure is known: that is part of what a caller waits.
        since = time.monotonic() if since is None else since
        while True:
            if failed is None:
                try:
                    result = await once()
                except Again as again:
                    failed = again
                else:
                    if failures > 1:
                        log.warning("%s answers again, after %.1f s", self._url, time.monotonic() - since)
                    return result
            now = time.monotonic()
            if failures == 0:
                since = max(since, now - self._silent_s)
            failures += 1
            seconds = pause_s(failures)
            if now + seconds > since + self._retry_for_s:
                self._give_up(failed, now - since)
            # A pooled connection that the server had closed is nothing to tell; failing a second time is.
            if failures == 2:
                how_long = "until it answers" if math.isinf(self._retry_for_s) else f"for {self._retry_for_s:g} s"
                log.warning("%s: %s; trying %s", self._url, failed, how_long)
            failed = None
            await self._pause(seconds)

    def _give_up(self, again: Again, seconds: float) -> None:
        if isinstance(again.error, ReadOnlyServer):
            raise again.error
        raise ServerUnavailable(url=self._url, seconds=round(seconds, 1), error=str(again)) from again


def pause_s(failures: int) -> float:
    """The pause after so many failures in a row, seconds; none before the second try."""
    return _PAUSES.compute(min(failures - 2, 10)) if failures > 1 else 0.0
