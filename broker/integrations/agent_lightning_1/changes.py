"""Changes of a rollout's status: its controller says that it started an attempt, or how the attempt ended."""

from __future__ import annotations

import json
import logging
import time

from broker.errors import NoResult
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
from broker.protocol.worker import Answer, Submission

_log = logging.getLogger(__name__)

#: What stock controllers say of an attempt that another controller runs, or one that died: they do not have it.
_NOT_THERE = frozenset({"local subprocess is not running", "Job disappeared"})
#: What the stock controller says of what it kills as it ends. The attempt is given back without penalty.
_SHUTDOWN = "local controller shutdown"
#: The changes of state that a controller may report.
_NEXT = {
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
        state = updates.pop("state", None)
        record, payload = await self._storage.record_and_payload(name.rollout)
        if record is None:
            raise not_found(shown)
        if state is not None or updates:
            await self._check(asking, shown, name, record, updates.get("last_attempt_id"), changes=state is not None)
        if state is None:
            if updates:
                _change(record, updates)
                await self._storage.save_all({name.rollout: record})
            return shown_of(shown, await self._storage.known(name.rollout))
        if state not in _NEXT[RolloutState(record.state)]:
            raise Refused(409, f"Rollout {shown}: cannot transition {record.state} -> {state.value}")
        match state:
            case RolloutState.RUNNING:
                record = await self._start(asking, shown, name.rollout, record, updates)
            case RolloutState.SUCCEEDED:
                await self._succeed(shown, name.rollout, record, updates)
            case _:
                await self._fail(asking, shown, name.rollout, record, updates)
        body = NO_PAYLOAD if payload is None else shown_payload(payload)
        return rollout_json(shown, body, record, record.state)

    async def _check(
        self, asking: Who, shown: str, name: Name, record: Record, last: str | None, *, changes: bool
    ) -> None:
        """Refuses a change of another attempt than the newest one, or by another controller than the one that has it.

        Args:
            asking: the controller.
            shown: the id of the rollout in the URL.
            name: what the URL means.
            record: the rollout's record.
            last: the attempt that the change names, or None.
            changes: whether the state is to be changed.

        Raises:
            Refused: see above.
        """
        meant = name if last in {None, names.FIRST} else names.parsed(shown, last)
        wanted = None if meant is None else meant.attempt or names.FIRST
        if not record.attempt:
            if wanted not in {None, names.FIRST}:
                raise await self._late(shown, "it has no such attempt")
            return
        newest = names.attempt_name(record.attempt)
        if wanted != newest:
            raise await self._late(shown, f"attempt {last or wanted} is over, or none of it; its newest is {newest}")
        if last not in {None, newest, names.FIRST, names.full_name(record.attempt)}:
            raise await self._late(shown, f"it has no attempt {last}")
        if changes and record.by != asking.name:
            raise await self._late(shown, f"controller {record.by} was given it, not {asking.name}")

    async def _late(self, shown: str, why: str) -> Refused:
        await self._storage.refuse("patches")
        _log.warning("late: a change of rollout %s was refused: %s", shown, why)
        return Refused(409, f"Rollout {shown}: {why}")

    async def _start(
        self, asking: Who, shown: str, rollout: str, record: Record, updates: dict[str, str | None]
    ) -> Record:
        if not record.attempt:  # it starts what it was not given in a list
            if not await self._controllers.claim_until(asking, rollout):
                raise Refused(409, f"Rollout {shown} cannot be started now")
            record = await self._storage.record(rollout) or record
        session = self._controllers.session_of(record.by, record.attempt)
        if session is None:
            row = await self._storage.row(rollout)
            if row is None or not holds(row, record.attempt):
                raise await self._late(shown, f"its attempt is over: {_why(row)}")
            session = row.slots[0].session
        record.state = RolloutState.RUNNING.value
        _change(record, updates)
        self._controllers.note_start(record.by)
        await self._storage.started(rollout, record, session)
        return record

    async def _succeed(self, shown: str, rollout: str, record: Record, updates: dict[str, str | None]) -> None:
        attempt = record.attempt
        result = json.dumps({"rollout_id": rollout, "attempt_id": names.attempt_name(attempt)}).encode()
        answers: list[Answer] = await self._storage.call(
            worker.submit(self._storage.run, [Submission(attempt, "accept", result)])
        )
        answer = answers[0]
        if answer.word == "noresult":
            raise NoResult(attempt=attempt)
        if answer.word != "accepted":
            raise await self._late(shown, f"its attempt is {f'{answer.word} {answer.why}'.rstrip()}")
        record.state = RolloutState.SUCCEEDED.value
        _change(record, updates)
        await self._storage.ended(rollout, record, final=True)

    async def _fail(
        self, asking: Who, shown: str, rollout: str, record: Record, updates: dict[str, str | None]
    ) -> None:
        attempt = record.attempt
        message = updates.get("error_message") or "the controller said that it failed"
        if not attempt:  # nobody has it: it is taken out of the run
            await self._storage.call(trainer.cancel(self._storage.run, request_id(), [rollout]))
            record.state = RolloutState.FAILED.value
            _change(record, updates)
            await self._storage.ended(rollout, record, final=True)
            return
        if message == _SHUTDOWN:
            await self._storage.call(worker.release(self._storage.run, [attempt]))
            final = False
        else:
            await self._refuse_misjudged(asking, shown, attempt, message)
            answer: Answer = await self._storage.call(worker.fail(self._storage.run, attempt, message, may_retry=True))
            if answer.word not in {"retried", "failed"}:
                raise await self._late(shown, f"its attempt is {f'{answer.word} {answer.why}'.rstrip()}")
            final = answer.word == "failed"
        record.state = RolloutState.FAILED.value if final else RolloutState.QUEUING.value
        _change(record, updates)
        await self._storage.ended(rollout, record, final=final)

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


def _why(row: TaskRow | None) -> str:
    if row is None:
        return "the broker does not know the task"
    return (row.slots[0].why if row.slots else "") or f"the task is {row.state}"


def _change(record: Record, updates: dict[str, str | None]) -> None:
    record.job = updates.get("k8s_job_name", record.job)
    record.last = updates.get("last_attempt_id", record.last)
    record.error = updates.get("error_message", record.error)
    record.version += 1
    record.updated_at = time.time()
