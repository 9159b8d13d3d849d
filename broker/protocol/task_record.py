"""Reads task records that a scan returns, in the layout of Lua (`lua/include/record_layout.lua`)."""

from __future__ import annotations

from dataclasses import dataclass

from broker.protocol.task_options import TaskOptions, stored_options


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskRecord(TaskOptions):
    """The fields of a record that checkpoints and `broker verify` need. `letters`: one for each slot, by the layout."""

    state: str
    step: int
    letters: str

    def unfinished(self, version: int) -> bool:
        """Whether the task is still to be trained, seen from this version."""
        return self.state in "PDRY" or (self.state == "B" and self.step >= version)


def task_record(raw: bytes) -> TaskRecord:
    """Decodes a record."""
    state, *parts = raw.split(b",", 12)
    options, letters = stored_options(parts[:4]), parts[11].partition(b";")[0].decode()
    return TaskRecord(state=state.decode(), step=int(parts[10]), letters=letters or "O" * options["samples"], **options)
