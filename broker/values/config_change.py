"""A change of a run's config while the run goes on: which fields there are, and when each takes effect."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, Literal, TypedDict

from broker.errors import BadArgument
from broker.values.arguments import shown
from broker.values.config import RunConfig


class ConfigChange(TypedDict, total=False):
    """The fields of `RunConfig`, each with a new value."""

    consumer_batch_size: int
    max_staleness: int | None
    staleness_limit: int | None
    max_concurrent_samples: int | None
    max_concurrent_rollouts: int
    on_stale: Literal["requeue", "drop", "keep", "wait"]
    max_wait_ms: int
    max_attempts: int
    max_stale_requeues: int
    lease_ms: int
    attempt_timeout_ms: int
    retry_backoff_ms: int
    retry_backoff_max_ms: int
    retention_steps: int
    keep_checkpoints: int
    max_payload_bytes: int
    max_result_bytes: int
    result_ttl_ms: int
    max_finished: int
    halt_after_failures: int
    quarantine_after: int
    events_maxlen: int


#: When a change of each field takes effect. No field is refused.
TAKES_EFFECT: Final = {
    "consumer_batch_size": "at once for capacity; for batches, with the next one that the trainer forms",
    "max_staleness": "with the next claim; `staleness_limit` is never below it",
    "staleness_limit": "at once; what is too old now starts over, or is dropped, when it is met",
    "max_concurrent_samples": "with the next claim; what is held stays so",
    "max_concurrent_rollouts": "with the next claim; what is running goes on",
    "on_stale": "at once, for tasks that are met; `wait` cannot save what is too old already",
    "max_wait_ms": "at once, for the wait that goes on too",
    "max_attempts": "with the next failure or expiry of each slot",
    "max_stale_requeues": "when a task is too old next",
    "lease_ms": "for workers that join from now on",
    "attempt_timeout_ms": "for attempts that are claimed from now on",
    "retry_backoff_ms": "with the next failure",
    "retry_backoff_max_ms": "with the next failure, or the end of a halt",
    "retention_steps": "with the next advance; what is freed stays so",
    "keep_checkpoints": "with the next checkpoint; what is freed stays so",
    "max_payload_bytes": "with the next enqueue; a trainer learns an operator's larger one when it opens the run",
    "max_result_bytes": "for workers that join from now on",
    "result_ttl_ms": "for workers that join from now on",
    "max_finished": "with the next advance; what is freed stays so",
    "halt_after_failures": "with the next failure; a halt stays",
    "quarantine_after": "with the next failure; a quarantine stays",
    "events_maxlen": "with the next call",
}


def change_fields(changes: Mapping[str, Any]) -> dict[str, str]:
    """Checks changes, and returns them as the run's state stores them.

    Raises:
        BadArgument: there is none, a field is unknown, or a value is out of range or of the wrong type.
    """
    if not changes:
        raise BadArgument(argument="changes", given="nothing", expected="a field of RunConfig and its new value")
    if changes.get("max_concurrent_rollouts", 0) is None:
        raise BadArgument(argument="max_concurrent_rollouts", given=shown(None), expected="a whole number")
    checked = RunConfig.model_validate({"consumer_batch_size": 1, **changes}).to_fields()
    return {name: checked[name] for name in changes}


def values_before(stored: Mapping[str, str]) -> dict[str, Any]:
    """The values that fields had, from the text that the server answers."""
    return {name: text if name == "on_stale" else int(text) if text else None for name, text in stored.items()}
