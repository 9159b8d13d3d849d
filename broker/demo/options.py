"""The options and the summary of the demo: plain values without dependencies."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any, Final, Literal

Chaos = Literal["workers", "trainer", "all"]

CHAOS_KINDS: Final[tuple[Chaos, ...]] = ("workers", "trainer", "all")

#: Episodes that a step trains on, in groups: the learner is tuned for this number.
EPISODES_PER_STEP: Final = 64

#: The name of the trainer's checkpoints in their directory.
CHECKPOINT: Final = "broker.json"


@dataclass(frozen=True, slots=True)
class DemoOptions:
    """The options of `broker demo`.

    Args:
        steps: updates of the policy.
        workers: worker processes.
        samples: episodes from the same start, the group of a task.
        max_staleness: S, the most versions that a rollout may be behind.
        seed: of the policy's first weights, the start states, and the chaos.
        url: the server; `embedded://` starts a private one.
        run: name of the run; empty: a new one.
        chaos: which processes are killed while it runs; None: none.
        json: print only the summary, as one JSON object.
    """

    steps: int = 60
    workers: int = 3
    samples: int = 4
    max_staleness: int = 2
    seed: int = 0
    url: str = "embedded://"
    run: str = ""
    chaos: Chaos | None = None
    json: bool = False

    @property
    def batch_size(self) -> int:
        """Tasks that a step trains on: as many groups as make about 64 episodes."""
        return max(1, EPISODES_PER_STEP // self.samples)

    @property
    def budget(self) -> int:
        """Tasks that may be started and not yet trained on: (S + 1) * B, and so the most that capacity can be."""
        return (self.max_staleness + 1) * self.batch_size

    @property
    def lease_s(self) -> float:
        """The lease of workers, which is short if workers are killed."""
        return 10.0 if self.chaos is None else 2.0

    @property
    def max_concurrent(self) -> int:
        """Tasks that may be running at once: enough that only staleness bounds them."""
        return self.budget + self.workers


def task_id(number: int) -> str:
    """The id of a run's task, from 0; tasks before the data loader's position have lower numbers."""
    return f"start-{number}"


@dataclass(frozen=True, slots=True)
class Summary:
    """The summary of a run, read from its event log.

    Attributes:
        steps: versions made.
        consumed: tasks trained on.
        duplicates: tasks trained on twice, and slots with two accepted results; must be 0.
        max_staleness_seen: oldest rollout that was trained on, in versions; must be at most max_staleness.
        max_staleness: the bound.
        late_refused: results that were refused because their slot had gone to another attempt.
        requeued: slots that were handed out again because their worker was killed or their result was too old.
        workers_killed: SIGKILLs sent to workers.
        return_first: mean return of the first step's episodes; None when no step was finished.
        return_last: mean return over the last ten steps.
        seconds: from start to end.
        server: kind and version.
        trainer_kills: SIGKILLs sent to the trainer.
        trained_exactly_once: whether the surviving history trained on each of its tasks once, by the event log and the
            checkpoints.
        lost: tasks that were neither trained on nor are still on their way; must be 0.
        max_capacity_seen: the largest capacity that the broker reported.
        max_capacity: the bound: (S + 1) * B.
        violations: every broken guarantee in words; empty when all held.
        signal: the signal that ended the run; None: no signal did.
    """

    steps: int
    consumed: int
    duplicates: int
    max_staleness_seen: int
    max_staleness: int
    late_refused: int
    requeued: int
    workers_killed: int
    return_first: float | None
    return_last: float | None
    seconds: float
    server: str
    trainer_kills: int
    trained_exactly_once: bool
    lost: int
    max_capacity_seen: int
    max_capacity: int
    violations: list[str] = field(default_factory=list[str])
    signal: int | None = None

    def to_json(self) -> dict[str, Any]:
        """The object that `--json` prints. Violations are printed on standard error; the exit code shows the signal."""
        fields = asdict(self)
        del fields["violations"], fields["signal"]
        return fields
