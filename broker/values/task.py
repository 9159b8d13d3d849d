"""A task, as the trainer enqueues it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Final

from pydantic import BeforeValidator, Field, ValidationInfo, field_validator

from broker.values.config import MAX_ATTEMPTS, MAX_TIME_MS
from broker.values.model import Model
from broker.values.names import check_name, is_name

MAX_SAMPLES: Final = 1024
MAX_PRIORITY: Final = 1000


class Task(Model, frozen=True):
    """One unit of training data.

    Args:
        id: unique within the run; 1 to 200 characters of `A-Za-z0-9._:/@+-`.
        payload: for the worker: `bytes`, or any value that `broker.values.codec.encode` takes.
        samples: rollouts asked for (a GRPO group), 1 to 1024.
        enough: the task is ready when so many samples are done, and the others are no longer worked on. What is
            left out is what takes long: see "Groups that do not wait" in docs/operations.md. None: all samples.
        min_samples: how many samples make the task useful when the others have failed for good; None becomes `enough`,
            or `samples`.
        priority: -1000 to 1000, larger ones are started first.
        timeout_ms: limit on the time of one attempt at this task, 0: none; None: the run's `attempt_timeout_ms`.
        max_attempts: expiries and errors of one slot until it has failed for good; None: the run's.

    Raises:
        BadName: the id is not allowed.
        BadArgument: another field is not allowed; one line for each.
    """

    id: Annotated[str, BeforeValidator(lambda value: check_name("task", value))]
    payload: Any = None
    samples: Annotated[int, Field(ge=1, le=MAX_SAMPLES)] = 1
    enough: Annotated[int | None, Field(ge=1, le=MAX_SAMPLES)] = None
    min_samples: Annotated[int | None, Field(validate_default=True, ge=1, le=MAX_SAMPLES)] = None
    priority: Annotated[int, Field(ge=-MAX_PRIORITY, le=MAX_PRIORITY)] = 0
    timeout_ms: Annotated[int | None, Field(ge=0, le=MAX_TIME_MS)] = None
    max_attempts: Annotated[int | None, Field(ge=1, le=MAX_ATTEMPTS)] = None

    if not TYPE_CHECKING:

        def __init__(self, *by_position: Any, **given: Any) -> None:
            # Data sets make many tasks. Fields of exactly the right types are set as by `model_construct`, at a third
            # of the cost of validating them. All others are validated, which makes the error's words.
            fields = {**_TASK_DEFAULTS, **given}
            samples, least, priority = fields["samples"], fields["min_samples"], fields["priority"]
            enough = samples if fields["enough"] is None else fields["enough"]
            timeout_ms, attempts = fields["timeout_ms"], fields["max_attempts"]
            if (
                not by_position
                and type(self) is Task
                and len(fields) == len(_TASK_DEFAULTS)
                and is_name(fields["id"])
                and type(samples) is int
                and 1 <= samples <= MAX_SAMPLES
                and type(enough) is int
                and 1 <= enough <= samples
                and (least is None or (type(least) is int and 1 <= least <= enough))
                and type(priority) is int
                and -MAX_PRIORITY <= priority <= MAX_PRIORITY
                and (timeout_ms is None or (type(timeout_ms) is int and 0 <= timeout_ms <= MAX_TIME_MS))
                and (attempts is None or (type(attempts) is int and 1 <= attempts <= MAX_ATTEMPTS))
            ):
                if least is None:
                    fields["min_samples"] = enough
                _set(self, "__dict__", fields)
                _set(self, "__pydantic_fields_set__", set(given))
                _set(self, "__pydantic_extra__", None)
                _set(self, "__pydantic_private__", None)
            else:
                super().__init__(*by_position, **given)

    @field_validator("enough", "min_samples")
    @classmethod
    def _within_samples(cls, given: int | None, info: ValidationInfo) -> int | None:
        name = "enough" if info.field_name == "min_samples" and info.data.get("enough") is not None else "samples"
        most = info.data.get(name)
        if given is None:
            return most if info.field_name == "min_samples" else None
        if most is not None and given > most:
            raise ValueError(f"must not be above {name}, which is {most}")
        return given

    @property
    def needed(self) -> int:
        """min_samples as a number: how many samples make the task useful."""
        return self.samples if self.min_samples is None else self.min_samples


_set: Final = object.__setattr__
#: In the order of the fields.
_TASK_DEFAULTS: Final = {
    "id": None,
    "payload": None,
    "samples": 1,
    "enough": None,
    "min_samples": None,
    "priority": 0,
    "timeout_ms": None,
    "max_attempts": None,
}
