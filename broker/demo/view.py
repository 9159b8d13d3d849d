"""What a display shows of a run in progress."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field


@dataclass(slots=True)
class View:
    """One look at the run.

    Attributes:
        run: its name.
        server: kind and version.
        steps: updates to make.
        max_staleness: the bound.
        seconds: since the start.
        version: the newest one.
        capacity: tasks that may be started now.
        max_capacity: the most that it was so far.
        running: tasks that are being worked on.
        ready: finished tasks that wait for a batch.
        returns: mean return of each step so far.
        staleness: how many consumed tasks were how many versions behind.
        consumed: tasks trained on.
        requeued: slots that were handed out again.
        late: refused results, by answer.
        workers: processes alive, and how many of them are frozen.
        killed: SIGKILLs sent to workers.
        trainers_killed: SIGKILLs sent to the trainer.
        deeds: what chaos did last, in words.
        violations: broken guarantees.
    """

    run: str
    server: str
    steps: int
    max_staleness: int
    seconds: float = 0.0
    version: int = 0
    capacity: int = 0
    max_capacity: int = 0
    running: int = 0
    ready: int = 0
    returns: list[float] = field(default_factory=list[float])
    staleness: Counter[int] = field(default_factory=Counter[int])
    consumed: int = 0
    requeued: int = 0
    late: Counter[str] = field(default_factory=Counter[str])
    workers: int = 0
    frozen: int = 0
    killed: int = 0
    trainers_killed: int = 0
    deeds: list[str] = field(default_factory=list[str])
    violations: list[str] = field(default_factory=list[str])
