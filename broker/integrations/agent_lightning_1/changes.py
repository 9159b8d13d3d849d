"""Changes of a rollout's status: its controller says that it started an attempt, or how the attempt ended."""

from __future__ import annotations

import json
import logging
import time

from broker.integrations.agent_lightning_1 import names
from broker.integrations.agent_lightning_1.controllers import Controllers
from broker.integrations.agent_lightning_1.messages import FINAL, Record, RolloutState, StatusPatch, rollout_json
from broker.integrations.agent_lightning_1.names import Name
from broker.integrations.agent_lightning_1.payloads import shown_payload
from broker.integrations.agent_lightning_1.rollouts import (
    NO_PAYLOAD,
    Refused,
    holds,
    named,
    not_found,
    request_id,
    shown_of,
)
from broker.integrations.agent_lightning_1.shares import Who
from broker.integrations.agent_lightning_1.storage import Storage
from broker.protocol import trainer, worker
from broker.protocol.task_row import TaskRow
from broker.protocol.worker import Answer

_log = logging.getLogger(__name__)

#: What stock controllers say of an attempt that another controller runs, or one that died: they do not have it.
_NOT_THERE = frozenset({"local subprocess is not running", "Job disappeared"})
#: What the stock controller says of what it kills as it ends. The attempt is given back without penalty.
_SHUTDOWN = "local controller shutdown"
#: How often a change is tried when others change the same rollout.
_TRIES = 10
#: The changes of state that a controller may report.
_NEXT: dict[str, frozenset[RolloutState]] = {
    RolloutState.QUEUING: frozenset({RolloutState.RUNNING, RolloutState.FAILED}),
    RolloutState.RUNNING: FINAL,
    RolloutState.SUCCEEDED: frozenset[RolloutState](),
    RolloutState.FAILED: frozenset[RolloutState](),
}


class Changes:
    """The changes of the rollouts of one run.

    Args:
        storage: the run.
        controllers: those of this gateway.
    """

    def __init__(self, storage: Storage, controllers: Controllers) -> None:
        self._storage, self._controllers = storage, controllers

    async def patch(self, asking: Who, shown: str, change: StatusPatch | None) -> bytes:
        """Changes the status of a rollout: starts or ends the attempt that the request names.

        Args:
            asking: the controller.
            shown: the id of the rollout in the URL.
            change: the fields that are given are changed.

        Raises:
            Refused: the attempt is over, or another's, or the state cannot be changed so.
        """
        name = named(shown)
        updates = {} if change is None else change.model_dump(exclude_unset=True)
        state: RolloutState | None = updates.pop("state", None)
        if state is None:
            return await self._described(asking, shown, name, updates)
        last = updates.get("last_attempt_id")
        given = self._controllers.given(asking.name, shown)
        if given is not None:
            # What the controller was just given need not be read. If it was changed since, that is told at the change.
            if state in _next(given.record) and _why_not(asking, shown, name, given.record, last) is None:
                body = await self._changed(asking, shown, given.record, given.session, state, updates)
                if body is not None:
                    return body
            self._controllers.forget(given.record)
        for _ in range(_TRIES):
            record = await self._storage.record(name.rollout)
            if record is None:
                raise not_found(shown)
            why = _why_not(asking, shown, name, record, last)
            if why is not None:
                raise await self._late(shown, why)
            if state not in _next(record):
                raise Refused(409, f"Rollout {shown}: cannot transition {record.state} -> {state.value}")
            body = await self._changed(asking, shown, record, "", state, updates)
            if body is not None:
                return body
        raise _is_changing(shown)

    async def _described(self, asking: Who, shown: str, name: Name, updates: dict[str, str | None]) -> bytes:
        """Changes what is said of a rollout beside its state."""
        for _ in range(_TRIES):
            record = await self._storage.record(name.rollout)
            if record is None:
                raise not_found(shown)
            if not updates:
                break
            why = _why_not(asking, shown, name, record, updates.get("last_attempt_id"), changes=False)
            if why is not None:
                raise await self._late(shown, why)
            noted = await self._storage.noted(
                self._storage.noting(name.rollout, record, _updated(record, record.state, updates))
            )
            if noted.word == "noted":
                break
        else:
            raise _is_changing(shown)
        return shown_of(shown, await self._storage.known(name.rollout))

    async def _changed(
        self, asking: Who, shown: str, record: Record, session: str, state: RolloutState, updates: dict[str, str | None]
    ) -> bytes | None:
        """Changes the state of a rollout, and returns it in JSON; None: its record is not the newest.

        Args:
            asking: the controller.
            shown: the id of the rollout in the URL.
            record: the rollout's record.
            session: the session that holds its attempt, if that is known.
            state: the new state.
            updates: the other fields that are given.

        Raises:
            Refused: the attempt is over.
        """
        rollout = named(shown).rollout
        match state:
            case RolloutState.RUNNING:
                changed = await self._start(asking, shown, rollout, record, session, updates)
            case RolloutState.SUCCEEDED:
                changed = await self._succeed(shown, rollout, record, updates)
            case _:
                changed = await self._fail(asking, shown, rollout, record, updates)
        if changed is None:
            return None
        now, payload = changed
        return rollout_json(shown, NO_PAYLOAD if payload is None else shown_payload(payload), now, now.state)

    async def _late(self, shown: str, why: str) -> Refused:
        await self._storage.refuse("patches")
        _log.warning("late: a change of rollout %s was refused: %s", shown, why)
        return Refused(409, f"Rollout {shown}: {why}")

    async def _ended(self, shown: str, rollout: str, answer: Answer) -> Refused:
        """The refusal of a change whose attempt the broker says is over."""
        if await self._storage.record(rollout) is None:
            return not_found(shown)
        return await self._late(shown, f"its attempt is {f'{answer.word} {answer.why}'.rstrip()}")

    async def _start(
        self, asking: Who, shown: str, rollout: str, record: Record, session: str, updates: dict[str, str | None]
    ) -> tuple[Record, bytes | None] | None:
        if not record.attempt:  # it starts what it was not given in a list
            if not await self._controllers.claim_until(asking, rollout):
                raise Refused(409, f"Rollout {shown} cannot be started now")
            record = await self._storage.record(rollout) or record
        if not session:
            row = await self._storage.row(rollout)
            if row is None or not holds(row, record.attempt):
                raise await self._late(shown, f"its attempt is over: {_why(row)}")
            session = row.slots[0].session
        new = _updated(record, RolloutState.RUNNING, updates)
        noted = await self._storage.noted(
            self._storage.noting(rollout, record, new, record.attempt, "H", session=session)
        )
        if noted.word != "noted":
            return None
        self._controllers.note_start(new, session)
        return new, noted.payload

    async def _succeed(
        self, shown: str, rollout: str, record: Record, updates: dict[str, str | None]
    ) -> tuple[Record, bytes | None]:
        attempt = record.attempt
        result = json.dumps({"rollout_id": rollout, "attempt_id": names.attempt_name(attempt)}).encode()
        new = _updated(record, RolloutState.SUCCEEDED, updates)
        noted = await self._storage.noted(
            self._storage.noting(rollout, record, new, attempt, "D", ended=True, result=result)
        )
        self._controllers.forget(record)
        if noted.answer is not None:
            raise await self._ended(shown, rollout, noted.answer)
        if noted.word == "noted":
            return new, noted.payload
        return await self._end(rollout, record, RolloutState.SUCCEEDED, updates, ended=True)

    async def _fail(
        self, asking: Who, shown: str, rollout: str, record: Record, updates: dict[str, str | None]
    ) -> tuple[Record, bytes | None]:
        attempt = record.attempt
        message = updates.get("error_message") or "the controller said that it failed"
        self._controllers.forget(record)
        if not attempt:  # nobody has it: it is taken out of the run
            await self._storage.call(trainer.cancel(self._storage.run, request_id(), [rollout]))
            return await self._end(rollout, record, RolloutState.FAILED, updates, ended=True)
        if message == _SHUTDOWN:
            await self._storage.call(worker.release(self._storage.run, [attempt]))
            return await self._end(rollout, record, RolloutState.QUEUING, updates, ended=False)
        await self._refuse_misjudged(asking, shown, attempt, message)
        answer: Answer = await self._storage.call(worker.fail(self._storage.run, attempt, message, may_retry=True))
        if answer.word not in {"retried", "failed"}:
            raise await self._ended(shown, rollout, answer)
        if answer.word == "failed":
            return await self._end(rollout, record, RolloutState.FAILED, updates, ended=True)
        return await self._end(rollout, record, RolloutState.QUEUING, updates, ended=False)

    async def _end(
        self, rollout: str, record: Record, state: RolloutState, updates: dict[str, str | None], *, ended: bool
    ) -> tuple[Record, bytes | None]:
        """Notes the end of an attempt, which the broker knows already. Returns the record, and the payload."""
        attempt = record.attempt
        for _ in range(_TRIES):
            new = _updated(record, state, updates)
            noted = await self._storage.noted(self._storage.noting(rollout, record, new, attempt, ended=ended))
            if noted.word == "noted":
                return new, noted.payload
            found = await self._storage.record(rollout)
            if found is None or found.attempt != attempt:  # it was deleted, or another controller has it already
                return new, None
            record = found
        raise _is_changing(rollout)

    async def _refuse_misjudged(self, asking: Who, shown: str, attempt: str, message: str) -> None:
        """A controller that does not run an attempt says that nobody does. Of several with one address one may."""
        if not asking.by_address or message not in _NOT_THERE:
            return
        lease_s = self._controllers.lease_s
        if await self._storage.silent_for_s(attempt) < lease_s:
            raise Refused(
                409,
                f"Rollout {shown}: another controller with the address of this one may run it. It fails after"
                f" {lease_s:g} seconds without a sign of life. Give each controller a URL with its name,"
                " http://host:port/controller/NAME.",
            )


def _why_not(
    asking: Who, shown: str, name: Name, record: Record, last: str | None, *, changes: bool = True
) -> str | None:
    """Why a change is refused: it is of another attempt than the newest one, or by another controller than has it.

    Args:
        asking: the controller.
        shown: the id of the rollout in the URL.
        name: what the URL means.
        record: the rollout's record.
        last: the attempt that the change names, or None.
        changes: whether the state is to be changed.

    Returns:
        The reason; None: it is not refused.
    """
    meant = name if last in {None, names.FIRST} else names.parsed(shown, last)
    wanted = None if meant is None else meant.attempt or names.FIRST
    if not record.attempt:
        return None if wanted in {None, names.FIRST} else "it has no such attempt"
    newest = names.attempt_name(record.attempt)
    if wanted != newest:
        return f"attempt {last or wanted} is over, or none of it; its newest is {newest}"
    if last not in {None, newest, names.FIRST, names.full_name(record.attempt)}:
        return f"it has no attempt {last}"
    if changes and record.by != asking.name:
        return f"controller {record.by} was given it, not {asking.name}"
    return None


def _next(record: Record) -> frozenset[RolloutState]:
    return _NEXT[record.state]


def _is_changing(rollout: str) -> Refused:
    return Refused(503, f"Rollout {rollout} is being changed by others: try again")


def _why(row: TaskRow | None) -> str:
    if row is None:
        return "the broker does not know the task"
    return (row.slots[0].why if row.slots else "") or f"the task is {row.state}"


def _updated(record: Record, state: str, updates: dict[str, str | None]) -> Record:
    """A record after a change."""
    return Record(  # `replace` takes twice as long, and every change comes here
        record.created_at,
        time.time(),
        record.data_id,
        record.is_train,
        record.attempt,
        record.by,
        str(state),
        record.version + 1,
        updates.get("k8s_job_name", record.job),
        updates.get("last_attempt_id", record.last),
        updates.get("error_message", record.error),
    )
