"""Reads the rows and bytes of a batch in pieces, to bound memory."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

from broker.connections.base import BaseTransport
from broker.errors import Gone
from broker.protocol import anyone
from broker.protocol.anyone import RolloutRow
from broker.protocol.result_bytes import fetch
from broker.values.codec import decode
from broker.values.evaluation_payload import decode_payload
from broker.values.rollout import Rollout
from broker.values.spans import CONTEXT_MARK, context_and_result

#: Tasks whose rows are read in one call.
ROWS_PER_CALL = 128
#: Bytes of results that one read asks for, estimated by the sizes of earlier results.
BYTES_PER_FETCH = 16 * 1024 * 1024
_MOST_KEYS_PER_FETCH = 512
#: Bytes of results that come with the rows of a batch, from the script that seals it: reading a few small results
#: there (at most 16) costs less than a round trip.
RESULT_BYTES_WITH_ROWS = 64 * 1024
#: Results of the first read of a batch, when those of the batch before were small enough for the bytes above.
_FIRST_KEYS = 64


@dataclass(slots=True)
class ResultSizes:
    """How large a run's results are expected to be.

    Args:
        largest: size of the largest one of the last batch in bytes, 0 before the first.
    """

    largest: int = 0


async def read_rows(io: BaseTransport, run: str, step: int, first: int, last: int) -> list[RolloutRow]:
    """The rows of a batch from first to last, last excluded."""
    rows: list[RolloutRow] = []
    while first + len(rows) < last:
        offset = first + len(rows)
        count = min(ROWS_PER_CALL, last - offset)  # for large groups the server returns fewer
        piece = await io.call(anyone.batch(run, step, offset, count))
        if not piece.rows:
            raise Gone(step=step)
        rows += piece.rows
    return rows


async def read_rollouts(
    io: BaseTransport,
    run: str,
    step: int,
    rows: Sequence[RolloutRow],
    sizes: ResultSizes,
    there: Sequence[bytes | None] = (),
) -> list[Rollout]:
    """The rollouts of some rows, with their results decoded.

    Args:
        io: reads them.
        run: the run.
        step: the step whose batch it is.
        rows: what the server says of the rollouts.
        sizes: the expected sizes of results, updated here.
        there: the bytes of the first results, which came with the rows.

    Raises:
        Gone: the bytes of a result are not there any more.
    """
    attempts = [sample.attempt_id for row in rows for sample in row.samples]
    results = _present(there, attempts, step)
    count = min(_FIRST_KEYS, BYTES_PER_FETCH // sizes.largest) if sizes.largest else _FIRST_KEYS
    while len(results) < len(attempts):
        piece = attempts[len(results) : len(results) + max(1, count)]
        values = await fetch(io, run, piece)
        found = _present(values, piece, step)
        lengths = list(map(len, found))
        sizes.largest = max(lengths) if not results else max(sizes.largest, *lengths)
        count = min(_MOST_KEYS_PER_FETCH, 4 * len(piece), BYTES_PER_FETCH * len(piece) // max(1, sum(lengths)))
        results += found
    return _rollouts(step, rows, results)


def _present(values: Sequence[bytes | None], attempts: Sequence[str], step: int) -> list[bytes]:
    if None in values:
        raise Gone(what="the result", attempt=attempts[values.index(None)], step=step)
    return list(cast("Sequence[bytes]", values))


def _rollouts(step: int, rows: Sequence[RolloutRow], results: list[bytes]) -> list[Rollout]:
    """Decodes payloads and results; frees the bytes of each result as soon as it is decoded."""
    rollouts: list[Rollout] = []
    results.reverse()
    for row in rows:
        for sample in row.samples:
            body = results.pop()
            if body.startswith(CONTEXT_MARK):
                sample.trace, body = context_and_result(body)
            sample.result = decode(body)
        oldest, (payload, judged) = row.oldest, decode_payload(row.payload)
        policy = None if judged is None else judged.policy
        rollouts.append(
            Rollout(row.task, payload, row.samples, oldest, row.newest, step, step - oldest, row.priority, policy)
        )
    return rollouts
