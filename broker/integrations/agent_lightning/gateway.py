"""The gateway without HTTP: hands out tasks, takes rollouts, requeues tasks that timed out."""

from __future__ import annotations

import hashlib
import logging
from dataclasses import dataclass
from typing import Any, cast

from pydantic import ValidationError
from pydantic_core import PydanticSerializationError, to_jsonable_python

from broker.errors import BadArgument, CodecError, NoRun, TooBig
from broker.integrations.agent_lightning.attempts import Attribution, Slot, attributed, brought_back
from broker.integrations.agent_lightning.claims import Claims, Handed
from broker.integrations.agent_lightning.messages import PostedRollout, Rollout, Task, TaskDescription
from broker.integrations.agent_lightning.resources import Resources
from broker.integrations.http_server.gateway import BaseGateway
from broker.protocol import result_bytes, task_row, worker
from broker.protocol.task_row import TaskRow
from broker.protocol.worker import Answer, Granted, Submission
from broker.values import spans
from broker.values.codec import decode, encode
from broker.worker.handler_outcome import words_of
from broker.worker.state import default_name

_log = logging.getLogger(__name__)

#: How many tasks that JSON cannot hold one request skips before it answers that there is no task.
_UNFIT_TASKS = 10


@dataclass(frozen=True, slots=True)
class Received:
    """What became of a posted rollout.

    Args:
        stored: whether the trainer gets it.
        attempt_id: the attempt that it was submitted for.
        answer: the broker's word: `accepted`, `superseded`, `stale`, `unknown`.
        instead: the attempt that has or had the slot instead, if known.
        why: how the rollout's own attempt ended, if known.
    """

    stored: bool
    attempt_id: str
    answer: str
    instead: str = ""
    why: str = ""


class Gateway(BaseGateway):
    """One gateway of a run. It has no state of its own: any other gateway of the run can go on.

    Args:
        url: the server.
        run: name of the run.
        task_timeout_s: how long a worker may take for a task, in seconds; None: the run's attempt_timeout_ms, or else
            5 minutes. Longer than the run's attempt_timeout_ms it has no effect.

    Raises:
        BadUrl, BadName, BadArgument: an argument cannot be used.
    """

    def __init__(self, url: str, run: str, *, task_timeout_s: float | None = None) -> None:
        if task_timeout_s is not None and not 0.001 <= task_timeout_s <= 86_400:
            raise BadArgument(argument="task_timeout_s", given=task_timeout_s, expected="0.001 to 86400 seconds")
        super().__init__(url, run)
        timeout_ms = None if task_timeout_s is None else int(task_timeout_s * 1000)
        self._claims = Claims(self._transport, self.run, f"gateway-{default_name()}"[:200], timeout_ms)
        self.resources = Resources(self._transport, self.run)

    async def _find_run(self) -> None:
        """Reads the run's config. Raises NoRun."""
        await self._claims.refresh()

    async def next_task(self, client: str) -> Task | None:
        """A task for a client; None when there is no work now.

        Args:
            client: a name of the client, to tell clients apart that do not send their attempt id back.

        Raises:
            ServerUnavailable: no answer.
        """
        for _ in range(_UNFIT_TASKS):
            try:
                handed = await self._claims.next()
            except NoRun as error:
                _log.warning("no tasks can be handed out: %s", error)
                return None
            if handed is None:
                return None
            try:
                task = _message(handed)
            except (CodecError, PydanticSerializationError, ValueError) as error:
                await self._give_up(handed.grant, error)
                continue
            slot = Slot(handed.grant.task, handed.grant.slot)
            await self._claims.remember(slot.name, handed.grant.attempt_id, client)
            if (active := spans.active) is not None:
                active.note(run=self.run, task=handed.grant.task, attempt=handed.grant.attempt_id)
            return task
        return None

    async def _give_up(self, grant: Granted, error: Exception) -> None:
        """Fails a task that JSON cannot hold: no other worker could get it."""
        _log.error("task %s cannot be handed out over HTTP: %s", grant.task, error)
        await self._claims.execute(
            worker.fail(self.run, grant.attempt_id, f"its payload cannot be sent as JSON: {error}", may_retry=False)
        )

    async def receive(self, posted: PostedRollout, client: str) -> Received:
        """Takes a rollout: stored if its attempt holds its slot, else counted and logged as late.

        Args:
            posted: the rollout that the client sent.
            client: the client's name.

        Raises:
            TooBig, CodecError: the rollout cannot be stored; its attempt has failed.
            NoRun, ServerUnavailable: it is unknown whether the rollout was stored.
        """
        slot = Slot.of_rollout(posted.rollout_id)
        if slot is None:
            _log.warning(
                "late: rollout %.200r of client %s is of no task of run %s", posted.rollout_id, client, self.run
            )
            return Received(stored=False, attempt_id="", answer="unknown")
        attribution = await self._attribution(posted, slot, client)
        try:
            answer = await self._submit(slot, attribution.attempt_id, self._encoded(posted))
        except (TooBig, CodecError) as error:
            await self._fail(slot, attribution, error)
            raise
        if (active := spans.active) is not None:
            active.note(run=self.run, task=slot.task, attempt=attribution.attempt_id, answer=answer.word)
        if answer.word == "accepted":
            return Received(stored=True, attempt_id=attribution.attempt_id, answer=answer.word)
        instead = answer.by_attempt or await self._holder(slot)
        _log.warning(
            "late: attempt %s of rollout %s (%s; client %s) is %s, %s: not stored",
            attribution.attempt_id,
            posted.rollout_id,
            attribution.basis,
            client,
            f"{answer.word} {answer.why}".rstrip(),
            f"attempt {instead} has the slot" if instead else "nobody has the slot now",
        )
        return Received(
            stored=False,
            attempt_id=attribution.attempt_id,
            answer=answer.word,
            instead=instead,
            why=answer.why,
        )

    async def _fail(self, slot: Slot, attribution: Attribution, error: TooBig | CodecError) -> None:
        """Fails the attempt of a rollout that cannot be stored: nobody posts another rollout for it."""
        if attribution.attempt_id == slot.no_attempt:
            return
        # The attempt may be another client's, whose rollout may fit: that one is tried again.
        may_retry = attribution.basis == "first write"
        await self._claims.execute(
            worker.fail(self.run, attribution.attempt_id, f"its rollout: {words_of(error)}", may_retry=may_retry)
        )

    def _encoded(self, posted: PostedRollout) -> bytes:
        fields = set(Rollout.model_fields)
        body = encode(posted.model_dump(mode="python", include=fields, exclude={"task": {"attempt_id"}}))
        limit = self._claims.config.max_result_bytes
        if len(body) > limit:
            raise TooBig(what="rollout", subject=posted.rollout_id, size=len(body), limit=limit)
        return body

    async def _attribution(self, posted: PostedRollout, slot: Slot, client: str) -> Attribution:
        brought = brought_back(posted, slot)
        if brought is not None:
            return Attribution(brought, "brought")
        row, given = await self._claims.row_and_given(slot.task, slot.name)
        if row is not None and slot.rollout_id(row.samples) != posted.rollout_id:
            row = None
        return attributed(slot, row, given, client)

    async def _submit(self, slot: Slot, attempt_id: str, body: bytes) -> Answer:
        # Another rollout for the same attempt is late; the broker would take it for a repetition of the first.
        # So is an attempt's rollout when a rollout of unknown attempt has filled the slot.
        if attempt_id != slot.no_attempt:
            digest = hashlib.sha256(body).hexdigest()[:32]
            if not await self._claims.first_writer(slot.name, attempt_id, digest):
                attempt_id = slot.no_attempt
        if (active := spans.active) is not None and (context := active.here()):
            body = spans.with_context(context, body)
        ttl_ms, item = self._claims.config.result_ttl_ms, Submission(attempt_id, "accept", body)
        (answer,), _ = await result_bytes.submit(self._transport, self.run, [item], ttl_ms=ttl_ms)
        return answer

    async def _holder(self, slot: Slot) -> str:
        """The attempt that holds a slot or has filled it; empty if none has."""
        row: TaskRow | None = await self._claims.execute(task_row.task(self.run, slot.task))
        if row is None or row.letters[slot.number : slot.number + 1] not in {"H", "D"}:
            return ""
        return next((last.attempt_id for last in row.slots if last.slot == slot.number), "")


def described(payload: Any) -> TaskDescription:
    """Reads a task's payload: a description that `Server` queued; any other value is the input itself."""
    if isinstance(payload, dict) and "input" in payload:
        try:
            return TaskDescription.model_validate(payload)
        except ValidationError:
            pass
    return TaskDescription(input=cast("Any", payload))


def to_json_values(value: Any) -> Any:
    """A value as JSON types: arrays and tuples become lists.

    Raises:
        PydanticSerializationError, ValueError: JSON has no type for a part of the value.
    """
    return to_jsonable_python(value, fallback=_array_as_list)


def _array_as_list(value: Any) -> Any:
    if hasattr(value, "tolist"):  # arrays and scalars of NumPy
        return value.tolist()
    raise ValueError(f"{type(value).__name__} is not JSON")


def _message(handed: Handed) -> Task:
    grant = handed.grant
    description = described(to_json_values(decode(grant.payload)))
    return Task(
        rollout_id=Slot(grant.task, grant.slot).rollout_id(grant.samples),
        input=description.input,
        mode=description.mode,
        resources_id=description.resources_id,
        create_time=description.create_time,
        last_claim_time=handed.at_ms / 1000,
        num_claims=grant.claims,
        metadata={**(description.metadata or {}), "attempt_id": grant.attempt_id},
        attempt_id=grant.attempt_id,
    )
