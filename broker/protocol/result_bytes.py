"""The bytes of results: how they are submitted and read. Each result has a key of its own.

In Lua this is `lua/include/result_bytes.lua`. To keep the bytes of results in another place, change `submit`, which can
await their upload, and `fetch`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

from broker.errors import BrokerError, NoResult
from broker.protocol import keys
from broker.protocol.script_call import Argument, Now, ScriptCall
from broker.protocol.worker import ACCEPTED, Answer, Submission, answers
from broker.values.verdict import LETTERS

#: Results up to this size, in bytes, are sent inside the call; larger ones are SET before it, which costs less there.
INLINE_BYTES = 16 * 1024
#: How the bytes of an item of a submit come: in the call, or stored before it.
INLINE, STORED = "i", "s"
#: How long stored bytes wait for the submit that has to accept them, if the run does not say otherwise, milliseconds.
TTL_MS = 3_600_000
#: How often bytes are stored that are gone when their submit comes.
_TRIES = 3


class Executing(Protocol):
    """What makes script calls: a transport."""

    async def execute(self, calls: Sequence[ScriptCall[Any]]) -> list[Any]:
        """For each script call its value, or its BrokerError."""
        ...


class Fetching(Protocol):
    """What reads keys of one run: a transport."""

    async def fetch(self, keys: Sequence[str]) -> list[bytes | None]:
        """The values of keys, None for one that is not there."""
        ...


async def submit(
    io: Executing,
    run: str,
    items: Sequence[Submission],
    *,
    then: Sequence[ScriptCall[Any]] = (),
    ttl_ms: int = TTL_MS,
    now: Now = "",
) -> tuple[list[Answer], list[Any]]:
    """Submits at most 256 results or verdicts in one round trip; other script calls may ride along.

    If the server has lost stored bytes, the whole round trip is made again: the other calls must be harmless twice.

    Args:
        io: makes the calls.
        run: name of the run.
        items: the results and verdicts.
        then: the other calls.
        ttl_ms: how long stored bytes wait for the submit that has to accept them, milliseconds.
        now: injected time in milliseconds; empty: the server's clock.

    Returns:
        An answer for each item, in order, and the outcomes of the other calls, as `execute` returns them.

    Raises:
        NoResult: the server lost the bytes of a result each time.
    """
    answered: list[Answer] = []
    for _ in range(_TRIES):
        call = submit_call(run, items, result_ttl_ms=ttl_ms, now=now)
        outcomes = await io.execute((call, *then))
        if isinstance(outcomes[0], BrokerError):
            raise outcomes[0]
        answered = outcomes[0]
        if answered.count(ACCEPTED) == len(answered) or all(answer.word != "noresult" for answer in answered):
            return answered, outcomes[1:]
    lost = next(item for item, answer in zip(items, answered, strict=True) if answer.word == "noresult")
    raise NoResult(attempt=lost.attempt_id)


def submit_call(
    run: str,
    items: Sequence[Submission],
    *,
    result_ttl_ms: int = TTL_MS,
    inline_bytes: int = INLINE_BYTES,
    now: Now = "",
) -> ScriptCall[list[Answer]]:
    """The script call that submits at most 256 results or verdicts, with the bytes of results; an answer for each."""
    args: list[Argument] = [now]
    before: list[tuple[Argument, ...]] = []
    for item in items:
        body, how = item.body, INLINE
        if item.verdict == "accept" and len(body) > inline_bytes:
            before.append(("SET", keys.result(run, item.attempt_id), body, "NX", "PX", result_ttl_ms))
            body, how = b"", STORED
        version, epoch = item.policy or ("", "")
        args += (item.attempt_id, LETTERS[item.verdict], version, epoch, how, body)
    return ScriptCall("submit", (keys.state(run),), tuple(args), answers, tuple(before))


async def fetch(io: Fetching, run: str, attempts: Sequence[str]) -> list[bytes | None]:
    """The bytes of the results of these attempts, None for one that is not there."""
    prefix = keys.result(run, "")
    return await io.fetch([prefix + attempt for attempt in attempts])
