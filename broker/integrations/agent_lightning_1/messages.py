"""The messages of the API, with the names, types and defaults that agent-lightning 1.0 gives them."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from enum import StrEnum
from json.encoder import encode_basestring_ascii
from typing import Any, cast

from pydantic import BaseModel, ConfigDict, Field


class RolloutState(StrEnum):
    """The states of a rollout. The last two are final."""

    QUEUING = "queuing"
    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"


FINAL = frozenset({RolloutState.SUCCEEDED, RolloutState.FAILED})


class LocalConfig(BaseModel):
    """How a local controller runs the rollout.

    Args:
        agent_class: `module:Class`, or `module.Class`.
        env_map: environment variable -> path into the input (`input.question`), or a text.
    """

    agent_class: str | None = None
    env_map: dict[str, str] = Field(default_factory=dict[str, str])


class K8sConfig(BaseModel):
    """How a Kubernetes controller runs the rollout.

    Args:
        job_template: Jinja2 template of a Job.
    """

    job_template: str | None = None


class RolloutConfig(BaseModel):
    """How a controller runs the rollout.

    Args:
        timeout_seconds: after which the controller ends it.
        local, k8s: for the two kinds of controller.
    """

    timeout_seconds: int = 3600
    local: LocalConfig | None = None
    k8s: K8sConfig | None = None


class RolloutMetadata(BaseModel):
    """Where the rollout is in the trainer's batch, and anything else."""

    model_config = ConfigDict(extra="allow")

    batch_idx: int | None = None
    sample_idx_in_batch: int | None = None


class RolloutCreate(BaseModel):
    """A rollout to be enqueued.

    Args:
        config: how controllers run it.
        is_train: whether it is for training, or for validation.
        metadata: the trainer's.
        input: the trainer's sample.
        rollout_id: makes the creation repeatable; None: the gateway chooses one.
    """

    config: RolloutConfig | None = None
    is_train: bool = True
    metadata: RolloutMetadata | None = None
    input: Any
    rollout_id: str | None = None


class StatusPatch(BaseModel):
    """A change of a rollout's status."""

    model_config = ConfigDict(extra="forbid")

    state: RolloutState | None = None
    k8s_job_name: str | None = None
    last_attempt_id: str | None = None
    error_message: str | None = None


class RolloutPatch(BaseModel):
    """A change of a rollout."""

    status: StatusPatch | None = None


class ListQuery(BaseModel):
    """The query of a list."""

    state_in: list[RolloutState] = Field(min_length=1)
    limit: int = 500


class TerminalQuery(BaseModel):
    """The query of the list of ended rollouts."""

    after: int = 0
    limit: int = 1000


class EventCreate(BaseModel):
    """An event of an attempt.

    Args:
        event_type: `model_request`, `reward`, or any other.
        data: what the type has.
    """

    event_type: str
    data: dict[str, Any] = Field(default_factory=dict[str, Any])


class EventsQuery(BaseModel):
    """The query of a rollout's events.

    Args:
        event_type: only events of this type.
        format: `triplet`: only what training needs.
        include_routed_experts: False: without the experts that each token was routed to.
    """

    event_type: str | None = None
    format: str | None = None
    include_routed_experts: bool = True


@dataclass(slots=True)
class Record:
    """What the API shows of a rollout and the broker does not know. The broker's word on its state counts more.

    A record is not changed, for it remembers its text: `replace` makes another.

    Args:
        created_at, updated_at: seconds since 1970.
        data_id, is_train: of its input, for the list of ended rollouts.
        attempt: its newest attempt that a controller was given; empty: none.
        by: the controller that was given that attempt.
        state: the state of that attempt, as its controller reported it.
        version: the number of changes of its status, and 1.
        job, last, error: `k8s_job_name`, `last_attempt_id`, `error_message`.
    """

    created_at: float
    updated_at: float
    data_id: str = ""
    is_train: bool = True
    attempt: str = ""
    by: str = ""
    state: str = RolloutState.QUEUING.value
    version: int = 1
    job: str | None = None
    last: str | None = None
    error: str | None = None
    _text: str = field(default="", init=False, compare=False)

    def stored(self) -> str:
        """As text. `lua/note_given.lua` knows what its first three items are."""
        if not self._text:
            self._text = json.dumps(
                (
                    *(self.attempt, self.by, self.state, self.created_at, self.updated_at),
                    *(self.data_id, self.is_train, self.version, self.job, self.last, self.error),
                )
            )
        return self._text

    def rest(self) -> str:
        """The stored text without its first three items, of a record with no attempt."""
        assert not self.attempt, "its text is cut at a known place"
        return self.stored().removeprefix(f'["", "", "{self.state}"')

    @classmethod
    def read(cls, stored: bytes) -> Record:
        """Of a stored text."""
        text = stored.decode()
        attempt, by, state, created_at, updated_at, data_id, is_train, *rest = cast("list[Any]", json.loads(text))
        record = cls(created_at, updated_at, data_id, is_train, attempt, by, state, *rest)
        record._text = text
        return record

    def status(self, state: str) -> bytes:
        """The status of the rollout in JSON."""
        job, last, error = (b"null" if text is None else _json(text) for text in (self.job, self.last, self.error))
        return b'{"state":%b,"k8s_job_name":%b,"last_attempt_id":%b,"error_message":%b,"version":%d,%b}' % (
            *(_json(state), job, last, error, self.version),
            b'"created_at":%a,"updated_at":%a' % (self.created_at, self.updated_at),
        )


def _json(text: str) -> bytes:
    return encode_basestring_ascii(text).encode()


def rollout_json(shown: str, payload: bytes, record: Record, state: str, attempt: str = "") -> bytes:
    """A rollout as the API shows it.

    Args:
        shown: its id.
        payload: the JSON object of the rest, as `payload_of` made it.
        record: its record.
        state: its state.
        attempt: the full name of the attempt that a controller was given. It is not in agent-lightning's message.
    """
    head = b'{"rollout_id":' + _json(shown) + b","
    if attempt:
        head += b'"attempt_id":"' + attempt.encode() + b'",'
    return head + payload[1:-1] + b',"status":' + record.status(state) + b"}"
