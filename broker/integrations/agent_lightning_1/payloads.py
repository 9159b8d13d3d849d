"""The rest of a rollout (input, config, metadata) as a task's payload: JSON that goes out as it is stored."""

from __future__ import annotations

import json
from typing import Any, cast

from pydantic import ValidationError
from pydantic_core import PydanticSerializationError, to_json

from broker.errors import CodecError
from broker.integrations.agent_lightning_1.messages import RolloutConfig, RolloutCreate, RolloutMetadata
from broker.values.codec import decode

#: How a payload of ours begins.
_OURS = b'{"config":{'
_CONFIG_AT = len(_OURS) - 1


class Unfit(Exception):
    """A task that a broker's trainer enqueued cannot be shown as a rollout."""


def payload_of(rollout: RolloutCreate) -> bytes:
    """The payload of a new rollout.

    Raises:
        Unfit: JSON cannot hold its input.
    """
    whole = rollout.model_copy(
        update={"config": rollout.config or RolloutConfig(), "metadata": rollout.metadata or RolloutMetadata()}
    )
    try:
        return to_json(whole.model_dump(exclude={"rollout_id"}))
    except (PydanticSerializationError, ValueError) as error:
        raise Unfit(f"JSON cannot hold its input: {error}") from None


def shown_payload(stored: bytes) -> bytes:
    """The payload of a stored task as JSON.

    A payload that another client of the broker wrote may be a dict with `input` and other fields of a rollout. Any
    other value is the input.

    Raises:
        Unfit: JSON cannot hold it.
    """
    if stored.startswith(_OURS):
        return stored
    try:
        value: Any = decode(stored)
    except CodecError as error:
        raise Unfit(f"its payload cannot be read: {error}") from None
    if isinstance(value, bytes):
        value = value.decode("utf-8", "replace")
    if isinstance(value, dict) and "input" in value:
        try:
            return payload_of(RolloutCreate.model_validate(value))
        except ValidationError:
            pass
    return payload_of(RolloutCreate(input=_plain(cast("Any", value))))


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        items = cast("dict[Any, Any]", value).items()
        return {str(name): _plain(part) for name, part in items}
    if isinstance(value, list):
        return [_plain(part) for part in cast("list[Any]", value)]
    return value.tolist() if hasattr(value, "tolist") else value


def is_for_k8s(payload: bytes) -> bool:
    """Whether the config of a shown payload names a Job for Kubernetes."""
    config, _ = json.JSONDecoder().raw_decode(payload[_CONFIG_AT:].decode())
    return config.get("k8s") is not None


def data_id_of(given: Any) -> str:
    """The id of the sample in an input, or the empty string."""
    if not isinstance(given, dict):
        return ""
    fields = cast("dict[Any, Any]", given)
    return str(fields.get("data_id") or fields.get("instance_id") or "")
