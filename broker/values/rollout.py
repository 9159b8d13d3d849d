"""The content of a batch: tasks with their results."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from broker.values.policy import Policy


@dataclass(slots=True, eq=False)
class Sample:
    """One accepted result of a task.

    Args:
        attempt_id: the attempt that made it.
        slot: which of the task's samples this is, from 0.
        result: what the worker submitted, decoded. Arrays in it are read-only; take the `.copy()` of one to change it.
        version: the policy's version when the slot was claimed.
        newest: the newest version that was used; it differs when weights changed during generation.
        worker: name of the worker.
        trace: the W3C `traceparent` of the attempt's span where its worker is traced (`broker.tracing`), else empty.
        claimed_at: when the attempt was claimed, in seconds since 1970 by the run's clock, which is the server's.
        submitted_at: when its result was accepted; None: an earlier release accepted it, and stored no time.
    """

    attempt_id: str
    slot: int
    result: Any = field(repr=False)
    version: int
    newest: int
    worker: str
    trace: str = field(default="", repr=False)
    claimed_at: float | None = None
    submitted_at: float | None = None

    @property
    def generation_s(self) -> float | None:
        """For how long the attempt was held, seconds."""
        if self.claimed_at is None or self.submitted_at is None:
            return None
        return round(self.submitted_at - self.claimed_at, 3)


@dataclass(slots=True, eq=False)
class Rollout:
    """A task together with its samples, as a batch delivers it.

    Args:
        task: the task's id.
        payload: the task's payload, decoded; arrays in it are read-only.
        samples: the accepted results, by slot.
        version: oldest version among the samples.
        newest: newest version among them.
        step: the step that trains it.
        staleness: step - version, in steps.
        priority: the task's priority.
        judged: the policy that the task of an evaluation judges (`Judged`), whose own run has other versions; or None.
        sealed_at: when its batch was full and sealed for training, in seconds since 1970 by the run's clock; None: an
            earlier release sealed it, and stored no time.
    """

    task: str
    payload: Any = field(repr=False)
    samples: list[Sample]
    version: int
    newest: int
    step: int
    staleness: int
    priority: int = 0
    judged: Policy | None = None
    sealed_at: float | None = None

    @property
    def results(self) -> list[Any]:
        """The samples' results, by slot."""
        return [sample.result for sample in self.samples]

    @property
    def ready_at(self) -> float | None:
        """When the last of its samples was submitted, in seconds since 1970 by the run's clock; None: not known."""
        times = [sample.submitted_at for sample in self.samples if sample.submitted_at is not None]
        return max(times) if times and len(times) == len(self.samples) else None

    @property
    def queued_s(self) -> float | None:
        """How long it waited, from its last sample to the seal of its batch, seconds; None: not known."""
        ready_at = self.ready_at
        return None if ready_at is None or self.sealed_at is None else round(self.sealed_at - ready_at, 3)
