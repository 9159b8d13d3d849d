"""When a loop over batches saves: the weights first, then the checkpoint, between an advance and the next batch."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from broker.errors import BadArgument, Exhausted, RunFinished
from broker.values.arguments import path_of, whole

_log = logging.getLogger(__name__)


@dataclass(slots=True)
class Saving:
    """What a loop saves, and how often.

    Args:
        checkpoint: the path of the broker's checkpoint; None: none is made.
        every: versions between two saves.
        save: the user's function that saves the weights of a version; None: there is none.
        last: the version that was saved last; -1: none was, by this loop.

    Raises:
        BadArgument: `every` is no whole number of at least 1, or was given with nothing to save.
    """

    checkpoint: Any
    every: int | None
    save: Callable[[int], Any] | None
    last: int = -1

    def __post_init__(self) -> None:
        if self.every is not None and not self.saves:
            raise BadArgument(problem="every says how often to save: give checkpoint=PATH or save=FUNCTION with it")
        if self.checkpoint is not None:
            path_of("checkpoint", self.checkpoint)
        self.every = 1 if self.every is None else whole("every", self.every, 1, 2**53 - 1)

    @property
    def saves(self) -> bool:
        """Whether anything is to be saved."""
        return self.checkpoint is not None or self.save is not None

    def is_due(self, version: int, *, at_end: bool = False) -> bool:
        """Whether this version is to be saved now: every so many versions, and at the end of the loop."""
        assert self.every is not None, "set above"
        return self.saves and version > 0 and version != self.last and (at_end or version % self.every == 0)


def end_loop(end: Exhausted) -> None:
    """Ends a loop over batches: the run is finished or no task is left. Warns of tasks that were never trained on.

    Args:
        end: why there is no further batch.

    Raises:
        Exhausted: tasks are left, or a feeder had more.
    """
    if isinstance(end, RunFinished):
        _log.info("the loop over batches has ended: %s", end)
        return
    if end.fields.get("left") or "supply" in end.fields:
        raise end
    if "dead" in end.fields:
        _log.warning("the loop over batches has ended: %s", end)
