"""What a trainer knows of its feeder, which brings the tasks of a data loader."""

from __future__ import annotations

import asyncio
import logging
from typing import Any, Protocol

from broker.errors import BadArgument, Exhausted

_log = logging.getLogger(__name__)


class FeedStopped(Exception):
    """A feeder was stopped before its tasks were sent."""


class Feeding(Protocol):
    """What brings a run's tasks."""

    error: BaseException | None
    is_working: bool
    has_ended: bool

    def stop(self) -> None:
        """From now on no task is enqueued any more."""
        ...


class FeedState:
    """The feeder of one trainer, and what earlier ones left.

    Args:
        run: name of the run.

    Attributes:
        feeder: the one that works, or the last one; None: there was none since the trainer opened or recovered the run.
        taken: items that the feeders took from data loaders since then.
        supply: what the run stores: whether more tasks will come.
    """

    def __init__(self, run: str) -> None:
        self._run = run
        self.feeder: Feeding | None = None
        self.taken = 0
        self.supply = ""
        self._has_told = False

    def stop(self) -> None:
        """Stops the feeder. The next one begins where the run's cursor says."""
        if self.feeder is not None:
            self.feeder.stop()
            self.feeder = None
        self.taken = 0

    def raise_error(self) -> None:
        """Raises what ended the feeder before its loader's end."""
        feeder = self.feeder
        if feeder is None or feeder.is_working or feeder.has_ended:
            return
        if feeder.error is None:
            raise BadArgument(problem="the feeder was interrupted before its loader's end: call feed again")
        if isinstance(feeder.error, (Exhausted, asyncio.CancelledError)):  # here they would mean something else
            problem = f"the data loader raised {type(feeder.error).__name__}"
            raise RuntimeError(problem) from feeder.error  # noqa: TRY004 - no argument is of a wrong type
        raise feeder.error

    def tell_of_lost_one(self, cursor: Any) -> None:
        """Warns once when an earlier trainer's feeder had more tasks, and this trainer has none.

        Args:
            cursor: the position that is stored.
        """
        if self.feeder is None and self.supply == "interrupted" and not self._has_told:
            self._has_told = True
            _log.warning(
                "run %s: the feeder of an earlier trainer had more tasks, and nobody feeds the run now: "
                "call trainer.feed(tasks), which goes on at cursor %r",
                *(self._run, cursor),
            )
