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
    """

    attempt_id: str
    slot: int
    result: Any = field(repr=False)
    version: int
    newest: int
    worker: str
    trace: str = field(default="", repr=False)


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

    @property
    def results(self) -> list[Any]:
        """The samples' results, by slot."""
        return [sample.result for sample in self.samples]
