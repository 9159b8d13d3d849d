"""The bytes of results, where they are kept: each under a key of its own (in Lua: `lua/include/result_bytes.lua`)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from broker.protocol import keys
from broker.protocol.script_call import Argument

#: Results up to this size, in bytes, are sent inside the call; larger ones are SET before it, which costs less there.
INLINE_BYTES = 16 * 1024
#: How the bytes of an item of a submit come: in the call, or stored before it.
INLINE, STORED = "i", "s"


class Fetching(Protocol):
    """What reads keys of one run: a transport."""

    async def fetch(self, keys: Sequence[str]) -> list[bytes | None]:
        """The values of keys, None for one that is not there."""
        ...


def store(run: str, attempt_id: str, body: bytes, ttl_ms: int) -> tuple[Argument, ...]:
    """The command that stores the bytes of a result, ahead of the submit that has to accept them within ttl_ms."""
    return ("SET", keys.result(run, attempt_id), body, "NX", "PX", ttl_ms)


async def fetch(io: Fetching, run: str, attempts: Sequence[str]) -> list[bytes | None]:
    """The bytes of the results of these attempts, None for one that is not there."""
    prefix = keys.result(run, "")
    return await io.fetch([prefix + attempt for attempt in attempts])
