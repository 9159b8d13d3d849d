"""Reads task records that a scan returns, in the layout of Lua (`lua/include/record_layout.lua`)."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class TaskRecord:
    """The fields of a record that checkpoints and `broker verify` need. `letters`: one for each slot, by the layout."""

    state: str
    priority: int
    samples: int
    min_samples: int
    step: int
    letters: str

    def unfinished(self, version: int) -> bool:
        """Whether the task is still to be trained, seen from this version."""
        return self.state in "PDRY" or (self.state == "B" and self.step >= version)


def task_record(raw: bytes) -> TaskRecord:
    """Decodes a record."""
    parts = raw.split(b",", 12)
    samples, letters = int(parts[3]), parts[12].partition(b";")[0].decode()
    return TaskRecord(
        parts[0].decode(), int(parts[1]), samples, int(parts[4]), int(parts[11]), letters or "O" * samples
    )
