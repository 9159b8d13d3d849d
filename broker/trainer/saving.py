"""A loop over batches: it advances after each, and saves the weights, then the checkpoint, before the next one."""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from broker.errors import BadArgument, CheckpointError, Exhausted, RunFinished
from broker.values.arguments import path_of, whole
from broker.values.rollout import Rollout

_log = logging.getLogger(__name__)


def _check_that_it_can_be_written(path: Path) -> None:
    """Raises CheckpointError where no file could be written, as the first save would after hours."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path.parent):
            pass
    except OSError as error:
        raise CheckpointError(path=str(path), problem=f"could not be written: {error.strerror or error}") from error
    if path.is_dir():
        raise CheckpointError(path=str(path), problem="could not be written, this is a directory: name a file in it")


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
            _check_that_it_can_be_written(path_of("checkpoint", self.checkpoint))
        self.every = 1 if self.every is None else whole("every", self.every, 1, 2**53 - 1)

    @property
    def saves(self) -> bool:
        """Whether anything is to be saved."""
        return self.checkpoint is not None or self.save is not None

    def is_due(self, version: int, *, at_end: bool = False) -> bool:
        """Whether this version is to be saved now: every so many versions, and at the end of the loop."""
        assert self.every is not None, "set above"
        return self.saves and version > 0 and version != self.last and (at_end or version % self.every == 0)


class Trains(Protocol):
    """The calls of a trainer that a loop over batches makes. In a client for asyncio the answers are awaited."""

    @property
    def version(self) -> int:
        """The policy's version."""
        ...

    def advance(self, blob: bytes | None = None) -> Any:
        """Ends the step."""
        ...

    def checkpoint(self, path: Any) -> Any:
        """Makes the checkpoint."""
        ...


class BatchLoop:
    """A loop over batches, which a client drives: each call of `next` ends a batch and gives the next one.

    Args:
        trainer: the client.
        ask: calls a function, and awaits the answer in a client for asyncio: `BaseTransport.ask`.
        next_batch: the client's, with the arguments of the loop.
        saving: what to save, and how often.
        blob: the user's function of a version, for `advance`; None: there is none.
    """

    def __init__(
        self,
        trainer: Trains,
        ask: Callable[..., Awaitable[Any]],
        next_batch: Callable[[], Any],
        saving: Saving,
        blob: Callable[[int], Any] | None,
    ) -> None:
        self._trainer, self._ask, self._next_batch, self._saving, self._blob = trainer, ask, next_batch, saving, blob
        self._is_handed_out = False  # a batch, whose step has not been ended

    async def next(self) -> list[Rollout] | None:
        """Advances if a batch was handed out, saves what is due, and waits for the next batch; None: the loop ends.

        Raises:
            Exhausted: tasks are left, too few for a batch.
            BrokerError: as the trainer's calls.
        """
        trainer, blob = self._trainer, self._blob
        if self._is_handed_out:
            given = None if blob is None else await self._ask("blob", blob, trainer.version + 1)
            await self._ask("advance", trainer.advance, given)
            await self._save(at_end=False)
        try:
            batch: list[Rollout] = await self._ask("next_batch", self._next_batch)
        except Exhausted as end:
            await self._save(at_end=True)
            _end(end)
            return None
        self._is_handed_out = True
        return batch

    async def _save(self, *, at_end: bool) -> None:
        saving, version = self._saving, self._trainer.version
        if saving.is_due(version, at_end=at_end):
            if saving.save is not None:
                await self._ask("save", saving.save, version)
            if saving.checkpoint is not None:
                await self._ask("checkpoint", self._trainer.checkpoint, saving.checkpoint)
            saving.last = version


def _end(end: Exhausted) -> None:
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
        # What the trainer's own filter discards is no reason to worry.
        is_filtered = (end.fields["dead"], end.fields["reasons"]) == (0, "'filtered'") and "freed" not in end.fields
        _log.log(logging.INFO if is_filtered else logging.WARNING, "the loop over batches has ended: %s", end)
