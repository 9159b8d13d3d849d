"""Reads values in answers that are small enough for the server.

A server with a small `client-output-buffer-limit` closes the connection in a larger answer, and gives no reason.
"""

import logging
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from broker.connections.connection import RedisCommand
from broker.connections.failures import CLOSED, CUT, Failure

log = logging.getLogger(__name__)

#: Answers of this size, in bytes, are not made smaller.
LEAST_BYTES = 64 * 1024

#: Sends commands to the server that has the keys; raises Failure.
SendCommands = Callable[[Sequence[RedisCommand]], Awaitable[list[Any]]]


class PartialReads:
    """The size of the answers that one server is known to send.

    Args:
        url: of the server, for messages.
    """

    def __init__(self, url: str) -> None:
        self._url = url
        self._limit: int | None = None  # bytes of an answer; None: no limit is known
        self._cuts = 0  # whole answers in a row that were cut off

    async def read(self, keys: Sequence[str], ask: SendCommands) -> list[bytes | None]:
        """The values of keys, None for one that is not there.

        After an answer that was cut off twice in a row, this and all later answers are asked for in smaller pieces.
        """
        if self._limit is None:
            try:
                (whole,) = await ask([("MGET", *keys)])
            except Failure as failure:
                self._cuts += failure.kind is CUT
                if failure.kind is not CUT or self._cuts < 2:
                    raise
            else:
                self._cuts = 0
                return whole
        sizes: list[int] = await ask([("STRLEN", key) for key in keys])
        if self._limit is None:
            self._lower(sum(sizes))
        values: list[bytes | None] = []
        while len(values) < len(keys):
            values += await self._some(keys[len(values) :], sizes[len(values) :], ask)
        return values

    async def _some(self, keys: Sequence[str], sizes: Sequence[int], ask: SendCommands) -> list[bytes | None]:
        """The values of the first keys: all that may come in one answer, or one value in pieces."""
        assert self._limit is not None
        count, size = 1, sizes[0]
        if size > self._limit:
            return [await self._one(keys[0], size, ask)]
        while count < len(keys) and size + sizes[count] <= self._limit:
            size += sizes[count]
            count += 1
        try:
            (values,) = await ask([("MGET", *keys[:count])])
        except Failure as failure:
            self._judge(failure, size)
            return []
        return values

    async def _one(self, key: str, size: int, ask: SendCommands) -> bytes | None:
        """Reads a value that is larger than an answer may be. Its bytes never change; it may be deleted."""
        parts: list[bytes] = []
        read = 0
        while read < size:
            assert self._limit is not None
            end = min(size, read + self._limit)
            try:
                (part,) = await ask([("GETRANGE", key, read, end - 1)])
            except Failure as failure:
                self._judge(failure, end - read)
                continue
            if len(part) < end - read:
                return None
            parts.append(part)
            read = end
        return b"".join(parts)

    def _judge(self, failure: Failure, size: int) -> None:
        """Lowers the limit after an answer that was cut off; raises the failure when smaller answers do not help."""
        if failure.kind not in (CUT, CLOSED):
            raise failure
        if size <= LEAST_BYTES:
            why = "" if failure.kind is CUT else ": its client-output-buffer-limit may be too small for that"
            raise Failure(
                failure.kind, f"{failure}, in an answer of {size} bytes{why}", moved=failure.moved
            ) from failure
        self._lower(size)

    def _lower(self, size: int) -> None:
        self._limit = max(size // 2, LEAST_BYTES)
        log.warning(
            "%s closed the connection while answering %d bytes: results are read in answers of up to %d bytes now; "
            "raise its client-output-buffer-limit for normal clients",
            self._url,
            size,
            self._limit,
        )
