"""The rollouts of a run as the API has them: created, looked at, changed, deleted, listed as they end."""

from __future__ import annotations

import json
import logging
import secrets
import time
import uuid
from collections.abc import Sequence
from dataclasses import dataclass, replace

from broker.errors import TooBig
from broker.integrations.agent_lightning_1 import names
from broker.integrations.agent_lightning_1.messages import (
    FINAL,
    Record,
    RolloutCreate,
    RolloutState,
    rollout_json,
)
from broker.integrations.agent_lightning_1.names import Name
from broker.integrations.agent_lightning_1.payloads import Unfit, data_id_of, payload_of, shown_payload
from broker.integrations.agent_lightning_1.storage import Known, Storage
from broker.protocol import trainer
from broker.protocol.task_row import TaskRow
from broker.protocol.trainer import EnqueuedPiece, NewTask, operator_call_id

_log = logging.getLogger(__name__)

#: Tasks, and bytes of their payloads, of one call.
_TASKS_PER_CALL, _BYTES_PER_CALL = 500, 4 * 1024 * 1024
#: States of tasks in the words of the broker.
_SUCCEEDED = frozenset({"ready", "batched", "sealed", "consumed"})
_OVER = frozenset({"dead", "rejected", "freed", "freed_untrained"})

#: What is shown of a rollout whose task was freed.
NO_PAYLOAD = b'{"input":null}'


class Refused(Exception):
    """The request is refused.

    Args:
        status: of HTTP.
        detail: the reason.
    """

    def __init__(self, status: int, detail: str) -> None:
        super().__init__(detail)
        self.status, self.detail = status, detail


def named(shown: str) -> Name:
    """What the id of a rollout in a URL means. Raises Refused: no rollout can have it."""
    name = names.parsed(shown)
    if name is None or not names.may_be_created(name.rollout):
        raise not_found(shown)
    return name


def not_found(shown: str) -> Refused:
    """There is no such rollout."""
    return Refused(404, f"Rollout not found: {shown}")


@dataclass(frozen=True, slots=True)
class Page:
    """A page of the list of ended rollouts: their ids, states and records, the next cursor, and how many have ended."""

    items: list[tuple[str, str, Record]]
    next_after: int
    total: int


class Rollouts:
    """The rollouts of one run.

    Args:
        storage: the run.
    """

    def __init__(self, storage: Storage) -> None:
        self._storage = storage

    async def create(self, wanted: Sequence[RolloutCreate]) -> list[bytes]:
        """Enqueues rollouts. One that exists stays as it is.

        Returns:
            The rollouts in JSON, in the order given.
        """
        now = time.time()
        payloads: dict[str, bytes] = {}
        records: dict[str, Record] = {}
        order: list[str] = []
        for one in wanted:
            rollout = one.rollout_id or uuid.uuid4().hex
            if not names.may_be_created(rollout):
                raise Refused(422, f"Rollout id {rollout[:200]!r} cannot be used: give letters, digits and ._:@+-")
            order.append(rollout)
            if rollout not in payloads:
                try:
                    payloads[rollout] = payload_of(one)
                except Unfit as error:
                    raise Refused(422, str(error)) from None
                records[rollout] = Record(now, now, data_id_of(one.input), one.is_train)
        existing = await self._enqueued(payloads)
        old = await self._old(existing)
        deleted = [rollout for rollout, known in old.items() if known.record is None and existing[rollout] in _OVER]
        if deleted:  # deleted before: it begins anew
            await self._enqueued({rollout: payloads[rollout] for rollout in deleted}, again=True)
        new = {
            rollout: record for rollout, record in records.items() if rollout not in old or old[rollout].record is None
        }
        for rollout in await self._storage.create_records(new):
            await self._complete(rollout, new[rollout])
        shown: dict[str, bytes] = {}
        for rollout, record in records.items():
            known = old.get(rollout)
            if known is None or known.record is None:
                shown[rollout] = rollout_json(rollout, payloads[rollout], record, RolloutState.QUEUING.value)
            else:
                shown[rollout] = shown_of(rollout, known)
        return [shown[rollout] for rollout in order]

    async def _enqueued(self, payloads: dict[str, bytes], *, again: bool = False) -> dict[str, str]:
        """Enqueues tasks in pieces; those that exist already, with the states that they are in."""
        existing: dict[str, str] = {}
        piece: list[NewTask] = []
        size = 0
        for rollout, payload in payloads.items():
            if piece and (len(piece) == _TASKS_PER_CALL or size + len(payload) > _BYTES_PER_CALL):
                existing |= await self._enqueued_piece(piece, again=again)
                piece, size = [], 0
            piece.append(NewTask(rollout, payload))
            size += len(payload)
        if piece:
            existing |= await self._enqueued_piece(piece, again=again)
        return existing

    async def _enqueued_piece(self, piece: Sequence[NewTask], *, again: bool) -> dict[str, str]:
        try:
            answer: EnqueuedPiece = await self._storage.call(
                trainer.enqueue(self._storage.run, request_id(), piece, again=again)
            )
        except TooBig as error:
            raise Refused(413, str(error)) from None
        return {piece[i].id: state for i, state in zip(answer.existing, answer.states, strict=True)}

    async def _complete(self, rollout: str, wanted: Record) -> None:
        """Adds what the trainer said of a rollout that a controller was given before its record was written."""
        noted = ""
        while noted != "noted":
            record = await self._storage.record(rollout)
            if record is None:  # it was deleted
                return
            new = replace(record, data_id=wanted.data_id, is_train=wanted.is_train)
            noted = (await self._storage.noted(self._storage.noting(rollout, record, new))).word

    async def _old(self, existing: dict[str, str]) -> dict[str, Known]:
        return {rollout: await self._storage.known(rollout) for rollout in existing}

    async def get(self, shown: str) -> bytes:
        """A rollout with the names of its attempts that have events, in JSON."""
        name = named(shown)
        known = await self._storage.known(name.rollout)
        if known.record is None:
            raise not_found(shown)
        attempts = json.dumps(known.attempts).encode()
        return b'{"rollout":' + shown_of(shown, known) + b',"attempts":' + attempts + b"}"

    async def delete(self, shown: str) -> None:
        """Deletes a rollout and its events. One that does not exist is deleted already."""
        name = names.parsed(shown)
        if name is None or not names.may_be_created(name.rollout):
            return
        if await self._storage.record(name.rollout) is None:
            return
        await self._storage.delete(name.rollout)

    async def ended(self, after: int, limit: int) -> Page:
        """Rollouts in the order in which they ended, from a cursor on."""
        rollouts, next_after, total = await self._storage.page_of_ends(max(0, after), max(1, limit))
        found = await self._storage.records(rollouts)
        # A rollout here has ended: if its record says otherwise, the broker ended it, or its gateway died.
        there = [(rollout, record) for rollout, record in zip(rollouts, found, strict=True) if record is not None]
        items: list[tuple[str, str, Record]] = []
        for rollout, record in there:
            state = record.state
            if state not in FINAL:
                state = state_of(await self._storage.row(rollout), record).value
            items.append((rollout, state, record))
        return Page(items, next_after, total)

    async def of_final_states(self, states: frozenset[RolloutState], limit: int) -> list[bytes]:
        """Rollouts that ended, in the order in which they did."""
        rows: list[bytes] = []
        after = 0
        while len(rows) < limit:
            page = await self.ended(after, 200)
            for rollout, _, _ in page.items:
                known = await self._storage.known(rollout)
                if known.record is not None and len(rows) < limit and state_of(known.row, known.record) in states:
                    rows.append(shown_of(rollout, known))
            if page.next_after == after:
                break
            after = page.next_after
        return rows


def state_of(row: TaskRow | None, record: Record) -> RolloutState:
    """The state of a rollout. The broker's word counts more than what a controller reported."""
    if row is None:
        return RolloutState.FAILED
    if row.state in _SUCCEEDED:
        return RolloutState.SUCCEEDED
    if row.state in _OVER:
        return RolloutState.FAILED
    if record.attempt and holds(row, record.attempt) and record.state == RolloutState.RUNNING.value:
        return RolloutState.RUNNING
    return RolloutState.QUEUING


def holds(row: TaskRow, attempt: str) -> bool:
    """Whether an attempt holds its rollout."""
    return row.letters[:1] == "H" and bool(row.slots) and row.slots[0].attempt_id == attempt


def shown_of(shown: str, known: Known) -> bytes:
    """A rollout in JSON, under the id that the URL has."""
    assert known.record is not None, "looked for before"
    record, row = known.record, known.row
    state = state_of(row, record)
    if row is not None and state in FINAL:
        record = _completed(record, row, state)
    payload = NO_PAYLOAD if known.payload is None else shown_payload(known.payload)
    return rollout_json(shown, payload, record, state.value)


def _completed(record: Record, row: TaskRow, state: RolloutState) -> Record:
    """A record with what no controller reported: the broker ended the rollout itself, or its gateway died."""
    if record.state == state.value:
        return record
    error = row.reason or row.state if state is RolloutState.FAILED and record.error is None else record.error
    if not row.slots:
        return replace(record, error=error)
    newest = row.slots[0]
    last, updated_at = names.attempt_name(newest.attempt_id), max(record.updated_at, newest.at_ms / 1000)
    return replace(record, error=error, last=last, updated_at=updated_at)


def request_id() -> trainer.CallId:
    """The id of a request to the broker."""
    return operator_call_id(secrets.token_hex(12))
