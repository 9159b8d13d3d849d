"""Judges the demo's run by its event log and its checkpoints. Knows none of its processes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from broker.errors.words import count
from broker.inspection.judge import Judge
from broker.protocol.ids import worker_of
from broker.values.config import RunConfig

#: How many breaches are shown.
_MOST_TOLD: Final = 20

#: More tasks than ever run at once: the bound that the demo shows is that of staleness.
_NO_BOUND: Final = 1_000_000_000


class Referee(Judge):
    """Follows the events of one run from its beginning.

    Args:
        batch_size: B, tasks of a full batch.
        max_staleness: S.
    """

    def __init__(self, batch_size: int, max_staleness: int) -> None:
        super().__init__(
            RunConfig(
                consumer_batch_size=batch_size,
                max_staleness=max_staleness,
                staleness_limit=max_staleness,
                max_concurrent_rollouts=_NO_BOUND,
            )
        )
        self._joined: set[str] = set()

    def feed(self, kind: str, words: Sequence[str], event: str = "") -> None:
        """As `Judge.feed`; also notes the workers."""
        if kind == "join" and words:
            self._joined.add(worker_of(words[0]))
        super().feed(kind, words, event)

    def missed(self) -> None:
        """Notes that events were trimmed before they were read: then the run cannot be judged."""
        self.against("log", "entries of the event log were gone before they could be read")

    def stalled(self, seconds: float) -> None:
        """Notes that for some seconds no result came and no step was made, although there is work."""
        ended = ", ".join(f"{count} {why}" for why, count in sorted(self.totals.ended.items()))
        text = f"no result and no step for {seconds:.0f} s (attempts that ended without a result: {ended or 'none'})"
        self.against("progress", text, guarantee="G9")

    def compare(self, version: int, finished: set[str]) -> None:
        """Compares a checkpoint with the log: its finished tasks must be those trained on before its version."""
        trained = {name for name, task in self.tasks.items() if task.state == "consumed" and task.step < version}
        gone = self.in_state("dead", "rejected")
        for what, names in (
            ("calls finished, but was not trained on", finished - trained - gone),
            ("calls unfinished, but was trained on", trained - finished),
        ):
            if names:
                tasks = count(len(names), "task")
                text = f"the checkpoint of version {version} has {tasks} that it {what}: {min(names)}"
                self.against("checkpoint", text, guarantee="G6")

    def held_by(self, worker: str) -> int:
        """The number of slots that a worker's sessions hold."""
        held = (sample for task in self.tasks.values() for sample in task.held.values())
        return sum(worker_of(sample.session) == worker for sample in held)

    def has_joined(self, worker: str) -> bool:
        """Whether a worker has, or had, a session."""
        return worker in self._joined

    @property
    def violations(self) -> list[str]:
        """The first breaches, in words."""
        return [breach.text for breach in self.breaches[:_MOST_TOLD]]

    @property
    def trained_exactly_once(self) -> bool:
        """Whether neither the log nor a checkpoint shows a breach."""
        return not self.broken.keys() & {"duplicate", "checkpoint", "lost", "policy", "log"}
