"""The values that users give and get: validated models at the edge, plain dataclasses on the hot path."""

from __future__ import annotations

from dataclasses import dataclass, field
from threading import Lock
from typing import TYPE_CHECKING, Annotated, Any, Final, Literal, Self

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)

from broker.errors import BadArgument
from broker.names import check_name, is_name
from broker.validation import refusal, wants_keywords

if TYPE_CHECKING:
    from collections.abc import Mapping

#: Bounds under which B * (S + version + 1) stays below 2^53, where the server's numbers are exact, up to version 8e9.
MAX_BATCH_SIZE: Final = 1_000_000
MAX_STALENESS: Final = 1_000_000_000
#: Longest time that can be configured, in milliseconds: a year.
MAX_TIME_MS: Final = 366 * 24 * 3_600_000
#: Largest value that Redis and Valkey store under one key with any setting, in bytes.
MAX_VALUE_BYTES: Final = 4 * 1024**3
MAX_SAMPLES: Final = 1024
MAX_PRIORITY: Final = 1000

_TimeMs = Annotated[int, Field(ge=0, le=MAX_TIME_MS)]
_Count = Annotated[int, Field(ge=0, le=1_000_000_000)]
_ValueBytes = Annotated[int, Field(ge=1, le=MAX_VALUE_BYTES)]


class _Edge(BaseModel, frozen=True):
    """Base of the models: strict, frozen, and errors of pydantic become the broker's own."""

    model_config = ConfigDict(strict=True, extra="forbid", arbitrary_types_allowed=True, defer_build=True)

    # Hidden from type checkers, which derive a precise signature from the fields instead.
    if not TYPE_CHECKING:

        def __init__(self, *by_position: Any, **given: Any) -> None:
            if by_position:
                raise wants_keywords(type(self))
            try:
                super().__init__(**given)
            except ValidationError as error:
                raise refusal(type(self), error) from None

        @classmethod
        def model_validate(cls, obj: Any, **options: Any) -> Self:
            try:
                return super().model_validate(obj, **options)
            except ValidationError as error:
                raise refusal(cls, error) from None

        @classmethod
        def model_validate_json(cls, json_data: str | bytes | bytearray, **options: Any) -> Self:
            try:
                return super().model_validate_json(json_data, **options)
            except ValidationError as error:
                raise refusal(cls, error) from None


class RunConfig(_Edge, frozen=True):
    """How a run admits, retries and keeps. The first three names are AReaL's.

    A run that is created stores every field. Who opens one that is there says only what it has to agree with: fields
    that were not given are not compared, and with `update=True` they stay as they are.

    Args:
        consumer_batch_size: rollouts per training step, 0 to 1,000,000; B = max(1, this).
        max_staleness: S, the most steps that a rollout may be behind the step that trains it; None: no bound.
        max_concurrent_rollouts: tasks that may be running at once; C = max(1, this). None, or not given: as many as B,
            also when an update changes B, until the run is created or updated with a number.
        on_stale: what happens to a task that is too old: done again, dropped, or kept (no check).
        max_attempts: expiries and errors of one slot until it has failed for good.
        max_stale_requeues: how often a task may be done again because it was too old.
        lease_ms: time without a sign of life after which a worker's attempts are given to others.
        attempt_timeout_ms: hard limit on one attempt, however alive its worker is; 0: off.
        retry_backoff_ms: pause before the first retry of an error, doubled for each further one; 0: none.
        retry_backoff_max_ms: longest such pause.
        retention_steps: steps whose batches are kept where no checkpoint covers them.
        keep_checkpoints: committed checkpoints that stay recoverable.
        max_payload_bytes: largest encoded payload of a task.
        max_result_bytes: largest encoded result.
        result_ttl_ms: how long the bytes of a result wait for the submit that accepts them.
        max_finished: dead tasks kept to look at, and rejected ones as many.
        events_maxlen: transitions kept in the event stream; 0: off.

    Raises:
        BadArgument: a field is out of range, of the wrong type or unknown; one line for each.
    """

    consumer_batch_size: Annotated[int, Field(ge=0, le=MAX_BATCH_SIZE)]
    max_staleness: Annotated[int, Field(ge=0, le=MAX_STALENESS)] | None = 0
    max_concurrent_rollouts: Annotated[int | None, Field(validate_default=True, ge=0, le=1_000_000_000)] = None
    on_stale: Literal["requeue", "drop", "keep"] = "requeue"
    max_attempts: Annotated[int, Field(ge=1, le=1_000_000)] = 3
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
        return given if given is not None or batch_size is None else max(1, batch_size)

    @property
    def batch_size(self) -> int:
        """B = max(1, consumer_batch_size)."""
        return max(1, self.consumer_batch_size)

    @property
    def concurrency(self) -> int:
        """C = max(1, max_concurrent_rollouts)."""
        return self.batch_size if self.max_concurrent_rollouts is None else max(1, self.max_concurrent_rollouts)

    def to_fields(self) -> dict[str, str]:
        """Each field that was given as text, None as the empty string: how the run's state holds it."""
        values = {name: getattr(self, name) for name in type(self).model_fields if name in self.model_fields_set}
        return {name: "" if value is None else str(value) for name, value in values.items()}

    def to_document(self) -> dict[str, Any]:
        """All fields, for a file. Where nobody gave max_concurrent_rollouts it is None there."""
        follows = "max_concurrent_rollouts" not in self.model_fields_set
        return {**self.model_dump(), **({"max_concurrent_rollouts": None} if follows else {})}

    @classmethod
    def from_document(cls, document: Mapping[str, Any]) -> Self:
        """Read back what `to_document` of any release made.

        Args:
            document: value by name; names that this release does not know are ignored, missing ones take their default.

        Raises:
            BadArgument: a value is out of range or of the wrong type, or consumer_batch_size is missing.
        """
        return cls.model_validate({name: document[name] for name in cls.model_fields if name in document})

    @classmethod
    def from_fields(cls, fields: Mapping[str, str]) -> Self:
        """Reads the config in the state of a run. What is stored counts as given.

        Args:
            fields: text by name; other names are ignored, missing ones take their default.

        Raises:
            BadArgument: a value is not a number in range, or consumer_batch_size is missing.
        """
        given = {name: _stored(name, fields[name]) for name in cls.model_fields if name in fields}
        config = cls.model_validate(given)
        # As `concurrency_follows` in lua/include/creation.lua.
        if fields.get("concurrency_given") != "1" and config.max_concurrent_rollouts == config.batch_size:
            config = cls.model_validate({**given, "max_concurrent_rollouts": None})
        return config


class Task(_Edge, frozen=True):
    """One unit of training data.

    Args:
        id: unique within the run; 1 to 200 characters of `A-Za-z0-9._:/@+-`.
        payload: what the worker gets: `bytes`, or anything that `broker.codec.encode` takes.
        samples: rollouts asked for (a GRPO group), 1 to 1024.
        min_samples: enough of them when the others have failed for good; None becomes `samples`.
        priority: -1000 to 1000, larger ones are started first.

    Raises:
        BadName: the id is not allowed.
        BadArgument: another field is not; one line for each.
    """

    id: Annotated[str, BeforeValidator(lambda value: check_name("task", value))]
    payload: Any = None
    samples: Annotated[int, Field(ge=1, le=MAX_SAMPLES)] = 1
    min_samples: Annotated[int | None, Field(validate_default=True, ge=1, le=MAX_SAMPLES)] = None
    priority: Annotated[int, Field(ge=-MAX_PRIORITY, le=MAX_PRIORITY)] = 0

    if not TYPE_CHECKING:

        def __init__(self, *by_position: Any, **given: Any) -> None:
            # A data set is made of these: what is plainly right is set as `model_construct` would, at a third of the
            # cost of validating it; all else goes the long way, which finds the words.
            fields = {**_TASK_DEFAULTS, **given}
            samples, enough, priority = fields["samples"], fields["min_samples"], fields["priority"]
            if (
                not by_position
                and type(self) is Task
                and len(fields) == len(_TASK_DEFAULTS)
                and is_name(fields["id"])
                and type(samples) is int
                and 1 <= samples <= MAX_SAMPLES
                and (enough is None or (type(enough) is int and 1 <= enough <= samples))
                and type(priority) is int
                and -MAX_PRIORITY <= priority <= MAX_PRIORITY
            ):
                if enough is None:
                    fields["min_samples"] = samples
                _set(self, "__dict__", fields)
                _set(self, "__pydantic_fields_set__", set(given))
                _set(self, "__pydantic_extra__", None)
                _set(self, "__pydantic_private__", None)
            else:
                super().__init__(*by_position, **given)

    @field_validator("min_samples")
    @classmethod
    def _within_samples(cls, given: int | None, info: ValidationInfo) -> int | None:
        samples = info.data.get("samples")
        if given is None or samples is None:
            return samples
        if given > samples:
            raise ValueError(f"must not be above samples, which is {samples}")
        return given

    @property
    def needed(self) -> int:
        """min_samples as a number: how many samples make the task useful."""
        return self.samples if self.min_samples is None else self.min_samples


_set: Final = object.__setattr__
#: In the order of the fields.
_TASK_DEFAULTS: Final = {"id": None, "payload": None, "samples": 1, "min_samples": None, "priority": 0}


class Policy(_Edge, frozen=True):
    """A version together with the epoch of the trainer that made it.

    Args:
        version: number of the policy, from 0.
        epoch: `<number>.<token>` of that trainer.
    """

    version: Annotated[int, Field(ge=0, lt=2**53)]
    epoch: Annotated[str, Field(min_length=1, max_length=200)]


class Stats(_Edge, frozen=True):
    """One consistent look at a run. Numbers of tasks, unless said otherwise.

    Args:
        run: the run's name.
        version: the current version.
        step_next: the first step whose batch is not sealed.
        epoch: the trainer that holds the run, `<number>.<token>`.
        capacity: how many tasks may be started now; may be negative.
        accepted: trained and waiting to be trained, as the capacity formula counts them (docs/protocol.md, Capacity).
        running: started, and neither finished nor back in waiting.
        pending: waiting to be started.
        delayed: waiting for their backoff to pass.
        open_slots: running tasks with a slot that nobody works on.
        ready: finished, not in a batch.
        batched: size of the open batch.
        consumed: trained on.
        dead: ended by errors; the ones still kept.
        rejected: refused, dropped or cancelled; the ones still kept.
        sessions: workers that have not left.
        lapsed: of these, the ones that have been silent for longer than their lease; claims take back what they hold.
        paused: "" (open), "paused" (no claims) or "draining" (open slots only).
        recovering: the version that a recovery under way goes back to, or None.
        floor: the oldest version still recoverable, or None without a committed checkpoint.
        operator_checkpoints: versions of the newest checkpoints of operators that are still recoverable, newest first;
            nothing is kept for them.
        config: the stored configuration.
        totals: counts over the run's life, by name.
        admission: it holds no tasks: processes start rollouts on their own and are counted (AReaL).
    """

    run: str
    version: int
    step_next: int
    epoch: str
    capacity: int
    accepted: int
    running: int
    pending: int
    delayed: int
    open_slots: int = 0
    ready: int
    batched: int
    consumed: int
    dead: int
    rejected: int
    sessions: int
    lapsed: int = 0
    paused: Literal["", "paused", "draining"] = ""
    recovering: int | None = None
    floor: int | None = None
    operator_checkpoints: list[int] = Field(default_factory=list[int])
    config: RunConfig
    totals: dict[str, int] = Field(default_factory=dict[str, int])
    admission: bool = False


# One lock for all attempts: it is held for two instructions, and only when something is cancelled.
_cancelling: Final = Lock()


# eq=False: comparing payloads that hold NumPy arrays has no answer; an attempt is the same one or it is not.
@dataclass(slots=True, eq=False)
class Attempt:
    """One claim of one slot of a task: what a worker works on.

    Args:
        id: globally unique; goes back with the result.
        run: the run's name.
        task: the task's id.
        slot: which of the task's samples this is, from 0.
        payload: the task's payload, decoded; arrays in it are read-only, take the `.copy()` of one to change it.
        version: version of `policy`.
        policy: what to generate with.
        samples: how many samples the task asks for.
        tries: expiries and errors of this slot so far.
        blob: what the trainer gave with this version (where the weights are), or None.
    """

    id: str
    run: str
    task: str
    slot: int
    payload: Any = field(repr=False)
    version: int
    policy: Policy
    samples: int
    tries: int
    blob: bytes | None = field(default=None, repr=False)
    _cancel_reason: str | None = field(default=None, init=False, repr=False)

    @property
    def cancelled(self) -> bool:
        """True once the result is of no use any more: stop generating. Set by the heartbeat, from its own thread."""
        return self._cancel_reason is not None

    @property
    def cancel_reason(self) -> str | None:
        """Why it was cancelled (`stale`, `revoked`, `cancelled`, `expired`, ...), or None."""
        return self._cancel_reason

    def mark_cancelled(self, reason: str) -> bool:
        """Cancel it, from any thread. The first reason stays.

        Returns:
            True if this call cancelled it, False if it already was.
        """
        with _cancelling:
            if self._cancel_reason is not None:
                return False
            self._cancel_reason = reason
            return True


@dataclass(slots=True, eq=False)
class Sample:
    """One accepted result of a task.

    Args:
        attempt_id: the attempt that made it.
        slot: which of the task's samples this is, from 0.
        result: what the worker submitted, decoded. Arrays in it are read-only; take the `.copy()` of one to change it.
        version: the policy's version when the slot was claimed.
        newest: the newest version used, where weights changed during generation.
        worker: name of the worker.
    """

    attempt_id: str
    slot: int
    result: Any = field(repr=False)
    version: int
    newest: int
    worker: str


@dataclass(slots=True, eq=False)
class Rollout:
    """A finished task together with its samples, as a batch delivers it.

    Args:
        task: the task's id.
        payload: the task's payload, decoded; arrays in it are read-only.
        samples: the accepted results, by slot.
        version: oldest version among the samples.
        newest: newest version among them.
        step: the step that trains it.
        staleness: step - version, in steps.
        priority: the task's priority.
    """

    task: str
    payload: Any = field(repr=False)
    samples: list[Sample]
    version: int
    newest: int
    step: int
    staleness: int
    priority: int = 0

    @property
    def results(self) -> list[Any]:
        """The samples' results, by slot."""
        return [sample.result for sample in self.samples]


def _stored(name: str, text: str) -> int | str | None:
    if name == "on_stale":
        return text
    if not text:
        return None
    # isdecimal alone accepts digits of other scripts; a number longer than this is out of any range.
    if text.isascii() and text.isdecimal() and len(text) < 20:
        return int(text)
    raise BadArgument(argument=name, given=repr(text[:40]), expected="a whole number")
