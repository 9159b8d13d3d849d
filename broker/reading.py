"""Reading the rows and bytes of a batch in pieces that bound memory."""

from __future__ import annotations

from broker import keys
from broker.codec import decode
from broker.errors import BrokerError, Gone
from broker.flow import Call, Fetch, Flow
from broker.models import Rollout, Sample
from broker.operations import anyone
from broker.operations.anyone import BatchPiece, RolloutRow

#: Tasks whose rows are read in one call.
ROWS_PER_CALL = 128
#: Bytes of results that one read asks for, by the size of those before.
BYTES_PER_FETCH = 16 * 1024 * 1024
_MOST_KEYS_PER_FETCH = 512


def read_rows(run: str, step: int, first: int, last: int) -> Flow[list[RolloutRow]]:
    """Rows first to last (excluded) of a batch."""
    rows: list[RolloutRow] = []
    for offset in range(first, last, ROWS_PER_CALL):
        count = min(ROWS_PER_CALL, last - offset)
        piece: BatchPiece | BrokerError = (yield Call((anyone.batch(run, step, offset, count),)))[0]
        if isinstance(piece, BrokerError):
            raise piece
        rows += piece.rows
    return rows


def read_rollouts(run: str, step: int, rows: list[RolloutRow]) -> Flow[list[Rollout]]:
    """The rollouts of rows, with their results decoded.

    Raises:
        Gone: the bytes of a result are not there any more.
    """
    attempts = [sample.attempt_id for row in rows for sample in row.samples]
    results: dict[str, bytes] = {}
    at, count = 0, 8
    while at < len(attempts):
        piece = attempts[at : at + count]
        values: list[bytes | None] = yield Fetch(tuple(keys.result(run, attempt) for attempt in piece))
        size = 1
        for attempt, value in zip(piece, values, strict=True):
            if value is None:
                raise Gone(what="the result", attempt=attempt, step=step)
            results[attempt] = value
            size += len(value)
        at += len(piece)
        count = max(1, min(_MOST_KEYS_PER_FETCH, 4 * count, BYTES_PER_FETCH * len(piece) // size))
    return [_rollout(step, row, results) for row in rows]


def _rollout(step: int, row: RolloutRow, results: dict[str, bytes]) -> Rollout:
    samples = [
        Sample(
            s.attempt_id, s.slot, decode(results.pop(s.attempt_id)), s.version, s.newest, s.session.rpartition("~")[0]
        )
        for s in row.samples
    ]
    return Rollout(
        row.task, decode(row.payload), samples, row.oldest, row.newest, step, step - row.oldest, row.priority
    )
