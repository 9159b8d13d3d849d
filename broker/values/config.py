"""How a run admits, retries and keeps."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Final, Literal, Self

from pydantic import Field, ValidationInfo, field_validator, model_validator

from broker.errors import BadArgument
from broker.values.model import Model

if TYPE_CHECKING:
    from collections.abc import Mapping

#: Bounds under which B * (S + version + 1) stays below 2^53, where the server's numbers are exact, up to version 8e9.
MAX_BATCH_SIZE: Final = 1_000_000
MAX_STALENESS: Final = 1_000_000_000
#: The default of `staleness_limit` is so many times `max_staleness`.
LIMIT_FOR_EACH_STEP: Final = 4
#: `max_concurrent_rollouts` where `max_concurrent_samples` takes its place: no bound.
UNBOUNDED: Final = 1_000_000_000
#: Longest time that can be configured, in milliseconds: a year.
MAX_TIME_MS: Final = 366 * 24 * 3_600_000
#: Most attempts of a slot.
MAX_ATTEMPTS: Final = 1_000_000
#: Largest value that Redis and Valkey store under one key with any setting, in bytes.
MAX_VALUE_BYTES: Final = 4 * 1024**3

_TimeMs = Annotated[int, Field(ge=0, le=MAX_TIME_MS)]
_Count = Annotated[int, Field(ge=0, le=1_000_000_000)]
_ValueBytes = Annotated[int, Field(ge=1, le=MAX_VALUE_BYTES)]


class RunConfig(Model, frozen=True):
    """How a run admits, retries and keeps. The first three names are AReaL's.

    A run that is created stores every field. For a run that exists, only the fields that were given are compared; with
    `update=True` the others stay as they are.

    Args:
        consumer_batch_size: rollouts per training step, 0 to 1,000,000; B = max(1, this).
        max_staleness: S, how many steps generation may run ahead of training; None: no bound. It admits new tasks, and
            so sets the mean staleness.
        staleness_limit: D, the most steps that a trained rollout is behind the step that trains it: `on_stale` acts
            beyond it. At least S. None, or not given: 4 * S, also when an update changes S; no bound without one for S.
        max_concurrent_rollouts: tasks that may be running at once; C = max(1, this). None, or not given: C = B, also
            when an update changes B, until the run is created or updated with a number.
        max_concurrent_samples: samples that workers may work on at once, over all tasks. None, or not given: no bound.
            Given without max_concurrent_rollouts, it takes its place: then there is no C.
        on_stale: what happens to a task that is too old: done again, dropped, or kept (no check). With `wait` none
            becomes too old: the batch keeps places for what is under way, and the trainer waits for it.
        max_wait_ms: how long a batch waits for the same tasks with `wait`; then these are done again.
        max_attempts: expiries and errors of one slot until it has failed for good.
        max_stale_requeues: how often a task may be done again because it was too old.
        lease_ms: time without a sign of life after which a worker's attempts go to others.
        attempt_timeout_ms: limit on the time of one attempt, even if its worker is alive; 0: off.
        retry_backoff_ms: pause before the first retry of an error, doubled for each further one; 0: none.
        retry_backoff_max_ms: longest pause before a retry.
        retention_steps: steps whose batches are kept when no checkpoint covers them.
        keep_checkpoints: committed checkpoints that stay recoverable.
        max_payload_bytes: largest encoded payload of a task.
        max_result_bytes: largest encoded result.
        result_ttl_ms: how long the bytes of a result wait for the submit that accepts them.
        max_finished: how many dead tasks are kept to look at, and how many rejected ones.
        halt_after_failures: so many failed attempts of different tasks, without an accepted result between them, halt
            the run, until it is resumed. Where fewer tasks are left, it is halted when the last of them dies. 0: never.
        quarantine_after: so many failed attempts in a row, of different tasks, keep a worker from getting more, if
            results of others were accepted meanwhile. The first time it gets nothing for `retry_backoff_max_ms` (a
            second at least), each further time for twice as long, up to 16 times. After that it gets one attempt at a
            time until a result of it is accepted. 0: never.
        events_maxlen: entries kept in the event stream, one for each call with all its transitions; 0: off.

    Raises:
        BadArgument: a field is out of range, of the wrong type or unknown; one line for each.
    """

    consumer_batch_size: Annotated[int, Field(ge=0, le=MAX_BATCH_SIZE)]
    max_staleness: Annotated[int, Field(ge=0, le=MAX_STALENESS)] | None = 0
    staleness_limit: Annotated[int, Field(ge=0, le=MAX_STALENESS)] | None = None
    max_concurrent_samples: Annotated[int, Field(ge=1, le=UNBOUNDED)] | None = None
    max_concurrent_rollouts: Annotated[int | None, Field(validate_default=True, ge=0, le=UNBOUNDED)] = None
    on_stale: Literal["requeue", "drop", "keep", "wait"] = "requeue"
    max_wait_ms: Annotated[int, Field(ge=1, le=MAX_TIME_MS)] = 600_000
    max_attempts: Annotated[int, Field(ge=1, le=MAX_ATTEMPTS)] = 3
    max_stale_requeues: Annotated[int, Field(ge=0, le=1_000_000)] = 10
    lease_ms: Annotated[int, Field(ge=1, le=MAX_TIME_MS)] = 60_000
    attempt_timeout_ms: _TimeMs = 0
    retry_backoff_ms: _TimeMs = 1_000
    retry_backoff_max_ms: _TimeMs = 60_000
    retention_steps: _Count = 100
    keep_checkpoints: Annotated[int, Field(ge=1, le=1_000)] = 2
    max_payload_bytes: _ValueBytes = 16 * 1024**2
    max_result_bytes: _ValueBytes = 512 * 1024**2
    result_ttl_ms: Annotated[int, Field(ge=1, le=MAX_TIME_MS)] = 3_600_000
    max_finished: _Count = 10_000
    halt_after_failures: Annotated[int, Field(ge=0, le=1_000)] = 64
    quarantine_after: Annotated[int, Field(ge=0, le=1_000)] = 16
    events_maxlen: _Count = 10_000

    @model_validator(mode="before")
    @classmethod
    def _none_is_not_given(cls, given: Any) -> Any:
        if isinstance(given, dict) and given.get("max_concurrent_rollouts", 0) is None:  # pyright: ignore[reportUnknownMemberType]
            return {name: value for name, value in given.items() if name != "max_concurrent_rollouts"}  # pyright: ignore[reportUnknownVariableType]
        return given  # pyright: ignore[reportUnknownVariableType]

    @field_validator("max_concurrent_rollouts")
    @classmethod
    def _default_concurrency(cls, given: int | None, info: ValidationInfo) -> int | None:
        batch_size = info.data.get("consumer_batch_size")
        if info.data.get("max_concurrent_samples") is not None:
            batch_size = UNBOUNDED
        return given if given is not None or batch_size is None else max(1, batch_size)

    @field_validator("staleness_limit")
    @classmethod
    def _limit_is_not_below(cls, given: int | None, info: ValidationInfo) -> int | None:
        if given is None or "max_staleness" not in info.data:
            return given
        staleness = info.data["max_staleness"]
        if staleness is None:
            raise ValueError("must be None where max_staleness is None")
        if given < staleness:
            raise ValueError(f"must be max_staleness ({staleness}) or more")
        return given

    @property
    def oldest_trained(self) -> int | None:
        """D, the most steps that a trained rollout is behind the step that trains it; None: no bound."""
        if self.max_staleness is None or self.staleness_limit is not None:
            return self.staleness_limit
        return LIMIT_FOR_EACH_STEP * self.max_staleness

    def is_too_old(self, version: int, step: int) -> bool:
        """Whether a rollout of `version` may not be trained by `step` any more: then `on_stale` acts."""
        limit = self.oldest_trained
        return limit is not None and self.on_stale != "keep" and step - version > limit

    @property
    def batch_size(self) -> int:
        """B = max(1, consumer_batch_size)."""
        return max(1, self.consumer_batch_size)

    @property
    def concurrency(self) -> int:
        """C = max(1, max_concurrent_rollouts); `UNBOUNDED` where max_concurrent_samples takes its place."""
        return self.batch_size if self.max_concurrent_rollouts is None else max(1, self.max_concurrent_rollouts)

    @property
    def bounds_tasks(self) -> bool:
        """Whether there is a C: not where max_concurrent_samples takes its place."""
        return self.concurrency < UNBOUNDED or self.max_concurrent_samples is None

    def to_fields(self) -> dict[str, str]:
        """Each field that was given, as the run's state stores it: text, and the empty string for None."""
        values = {name: getattr(self, name) for name in type(self).model_fields if name in self.model_fields_set}
        return {name: "" if value is None else str(value) for name, value in values.items()}

    def to_document(self) -> dict[str, Any]:
        """All fields, for a file. A max_concurrent_rollouts that was not given is None there."""
        follows = "max_concurrent_rollouts" not in self.model_fields_set
        return {**self.model_dump(), **({"max_concurrent_rollouts": None} if follows else {})}

    @classmethod
    def from_document(cls, document: Mapping[str, Any]) -> Self:
        """Read back what `to_document` of any release made.

        Args:
            document: value by name; names that this release does not know are ignored, missing ones take their default.
                A release without `staleness_limit` had `max_staleness` in its place.

        Raises:
            BadArgument: a value is out of range or of the wrong type, or consumer_batch_size is missing.
        """
        return cls.model_validate(_with_limit({name: document[name] for name in cls.model_fields if name in document}))

    @classmethod
    def from_fields(cls, fields: Mapping[str, str]) -> Self:
        """Reads the config in the state of a run. Stored fields count as given.

        Args:
            fields: text by name; other names are ignored, missing ones take their default.

        Raises:
            BadArgument: a value is not a number in range, or consumer_batch_size is missing.
        """
        given = _with_limit({name: _stored(name, fields[name]) for name in cls.model_fields if name in fields})
        config = cls.model_validate(given)
        # As `Config.follows` in lua/include/creation.lua.
        followed = config.batch_size if config.max_concurrent_samples is None else UNBOUNDED
        if fields.get("concurrency_given") != "1" and config.max_concurrent_rollouts == followed:
            config = cls.model_validate({**given, "max_concurrent_rollouts": None})
        return config


def _with_limit(stored: dict[str, Any]) -> dict[str, Any]:
    """As `Staleness.limit` in lua/include/state.lua: an update may have raised S above D."""
    staleness = stored.get("max_staleness")
    if "max_staleness" not in stored:
        return stored
    limit = stored.get("staleness_limit", staleness)
    if isinstance(limit, int):
        limit = None if staleness is None else max(limit, staleness)
    return {**stored, "staleness_limit": limit}


def _stored(name: str, text: str) -> int | str | None:
    if name == "on_stale":
        return text
    if not text:
        return None
    # isdecimal alone accepts digits of other scripts; a number longer than this is out of any range.
    if text.isascii() and text.isdecimal() and len(text) < 20:
        return int(text)
    raise BadArgument(argument=name, given=repr(text[:40]), expected="a whole number")
