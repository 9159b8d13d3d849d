"""The messages of the protocol, with the names, types and defaults that agent-lightning 0.3 gives them.

Other fields that a client sends are ignored, as agent-lightning's own server ignores them.
"""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

Mode = Literal["train", "val", "test"]


class Triplet(BaseModel):
    """One turn of a rollout.

    Args:
        prompt: the model's input.
        response: the model's answer.
        reward: of this turn, or None.
        metadata: any other values.
    """

    prompt: Any
    response: Any
    reward: float | None = None
    metadata: dict[str, Any] = Field(default_factory=dict[str, Any])


class Task(BaseModel):
    """A task, as a worker gets it.

    Args:
        rollout_id: sent back with the rollout.
        input: the trainer's sample.
        mode: phase in which it is executed.
        resources_id: the resources to use; None: the latest.
        create_time: when it was queued, seconds since 1970.
        last_claim_time: when it was handed out, by the broker's clock, seconds since 1970.
        num_claims: how often it was handed out, this time included.
        metadata: the trainer's, with `attempt_id` added; always an object.
        attempt_id: the attempt. Not in agent-lightning's message. If the client sends it back, it fences the rollout.
    """

    rollout_id: str
    input: Any
    mode: Mode | None = None
    resources_id: str | None = None
    create_time: float | None = None
    last_claim_time: float | None = None
    num_claims: int | None = None
    metadata: dict[str, Any] = Field(default_factory=dict[str, Any])
    attempt_id: str | None = None


class Rollout(BaseModel):
    """A rollout, as a worker reports it and a trainer gets it.

    Args:
        rollout_id: of the task.
        task: the task echoed, or None.
        final_reward: of the whole rollout.
        triplets: its turns.
        trace: spans in OpenTelemetry's JSON.
        logs: lines of text.
        metadata: anything else.
    """

    rollout_id: str
    task: Task | None = None
    final_reward: float | None = None
    triplets: list[Triplet] | None = None
    trace: list[dict[str, Any]] | None = None
    logs: list[str] | None = None
    metadata: dict[str, Any] = Field(default_factory=dict[str, Any])


class PostedRollout(Rollout):
    """A rollout as it is posted.

    Args:
        attempt_id: the task's, if the client sends it back.
    """

    attempt_id: str | None = None


class ResourcesUpdate(BaseModel):
    """A bundle of resources: prompt templates, endpoints of language models.

    Args:
        resources_id: its id.
        create_time: when it was published, seconds since 1970.
        update_time: the same; bundles do not change.
        version: always 1, as in agent-lightning.
        resources: resource by name, each an object with its `resource_type`.
    """

    resources_id: str
    create_time: float
    update_time: float
    version: int = 1
    resources: dict[str, Any]


class TaskDescription(BaseModel):
    """A task, as `Server` queues it: this payload has more than the task's input.

    Args:
        input: the trainer's sample.
        mode, resources_id, create_time, metadata: as in `Task`.
    """

    model_config = ConfigDict(extra="forbid", strict=True)

    input: Any
    mode: Mode | None = None
    resources_id: str | None = None
    create_time: float | None = None
    metadata: dict[str, Any] | None = None
