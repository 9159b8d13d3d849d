"""Feeding a run from a data loader: tasks are enqueued as the run needs them, each piece with the loader's position."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterable, Iterable
from contextlib import suppress
from typing import Any, Protocol, cast, runtime_checkable

from broker.connections.repeated_warning import RepeatedWarning
from broker.errors import BadArgument
from broker.protocol import keys
from broker.protocol.trainer import Supply
from broker.trainer.draws import END, NOT_YET, Draw
from broker.trainer.enqueued import note_left, refuse_left
from broker.trainer.state import TASKS_PER_CALL, TrainerState
from broker.values.arguments import shown, whole
from broker.values.config import MAX_BATCH_SIZE
from broker.values.task import Task

#: A piece that takes longer than this to draw is sent as it is, seconds: the tasks of a slow loader do not wait.
_SEND_AFTER_S = 0.1
#: The shortest and the longest pause before the feeder looks again how many tasks are waiting, seconds.
_SHORTEST_PAUSE_S, _LONGEST_PAUSE_S = 0.01, 1.0


@runtime_checkable
class Stateful(Protocol):
    """A data loader, or an object beside one, that knows its position."""

    def state_dict(self) -> Any:
        """The position, as something JSON can hold."""
        ...

    def load_state_dict(self, state_dict: Any) -> None:
        """Goes to a position."""
        ...


class Counted:
    """The position of a loader that does not know it: how many items the feeds of this program took.

    Args:
        stored: the position to go on from.
        taken: how many items earlier feeds of the same program took.
    """

    def __init__(self, stored: int, taken: int) -> None:
        self._stored, self.taken, self._began_at = stored, taken, taken

    @property
    def is_new(self) -> bool:
        """Whether the item that was just taken is behind the stored position."""
        return self.taken > self._stored

    def position(self) -> Any:
        """What to store."""
        return max(self.taken, self._stored)

    def rewind(self) -> None:
        """The feeder has ended before its loader: the next one gets the same items from the first one on."""
        self.taken = self._began_at


class Kept:
    """The position of a loader that knows it.

    Args:
        loader: the loader, or the object beside one.
        taken: how many items earlier feeds of the same program took.
    """

    is_new = True

    def __init__(self, loader: Stateful, taken: int) -> None:
        self._loader, self.taken, self._sent = loader, taken, loader.state_dict()

    def position(self) -> Any:
        """What to store."""
        self._sent = self._loader.state_dict()
        return self._sent

    def rewind(self) -> None:
        """The feeder has ended before its loader: puts the loader behind the last task that was sent."""
        self._loader.load_state_dict(self._sent)


def positions_of(state: TrainerState, tasks: object, cursor: object) -> Counted | Kept:
    """Where a loader stands. A loader that knows its position is put where the run's cursor says.

    Args:
        state: the trainer.
        tasks: what `feed` was given.
        cursor: an object with `state_dict` and `load_state_dict`, or None.

    Raises:
        BadArgument: the cursor is no such object; or the run stores no count, and nothing can read what it stores.
    """
    loader = tasks if cursor is None and isinstance(tasks, Stateful) else cursor
    stored, taken = state.cursor, state.fed.taken
    if loader is None:
        if stored is not None and type(stored) is not int:
            raise BadArgument(
                argument="cursor",
                given="None",
                expected=f"an object with load_state_dict, for the run's stored cursor is {shown(stored)}, no count",
            )
        return Counted(stored or 0, taken)
    if not isinstance(loader, Stateful):
        raise BadArgument(
            argument="cursor", given=shown(loader), expected="an object with state_dict and load_state_dict, or None"
        )
    if stored is not None and taken == 0:
        loader.load_state_dict(stored)
    return Kept(loader, taken)


def feeder_of(state: TrainerState, tasks: object, cursor: object, ahead: int | None) -> Feeder:
    """The feeder of a loader; it is not at work yet.

    Args:
        state: the trainer.
        tasks: what `feed` was given.
        cursor: what knows the loader's position, or None.
        ahead: how many tasks are to wait in the run; None: four batches.

    Raises:
        BadArgument: another feeder is at work, or one of the arguments cannot be used.
    """
    if state.fed.feeder is not None and state.fed.feeder.is_working:
        raise BadArgument(problem="another feeder is at work: it has to end before the next one begins")
    if not isinstance(tasks, (Iterable, AsyncIterable)):
        raise BadArgument(argument="tasks", given=shown(tasks), expected="an iterable of broker.Task")
    refuse_left(cast("object", tasks))
    most = 4 * state.config.batch_size if ahead is None else whole("ahead", ahead, 1, MAX_BATCH_SIZE)
    return Feeder(state, positions_of(state, cast("object", tasks), cursor), most, cast("object", tasks))


class Feeder:
    """Keeps tasks of a data loader waiting in a run, until the loader ends or `stop` is called.

    Args:
        state: the trainer.
        positions: the loader's position.
        ahead: how many tasks are to wait in the run.
        given: what `feed` was given.

    Attributes:
        error: what ended it before the loader's end, or None. A trainer that waits for a batch raises it.
        is_working: whether more tasks may come.
        has_ended: whether it came to the loader's end.
    """

    def __init__(self, state: TrainerState, positions: Counted | Kept, ahead: int, given: object) -> None:
        self._state, self._positions, self._ahead, self._given = state, positions, ahead, given
        self._pause_s = _SHORTEST_PAUSE_S
        self._in_vain = RepeatedWarning()
        self.error: BaseException | None = None
        self.is_working = True
        self.has_ended = False

    async def begin(self) -> None:
        """Tells the run that more tasks will come."""
        self._state.fed.feeder = self
        try:
            await self._send([], "begin", with_position=False)
        except BaseException:
            self.stop()
            raise

    def stop(self) -> None:
        """From now on no task is enqueued any more, not even one that was drawn already."""
        self.is_working = False

    async def work(self, draw: Draw) -> None:
        """Feeds the run until the loader ends.

        Args:
            draw: draws the loader's items.
        """
        try:
            while self.is_working and not self.has_ended:
                piece, is_over = await self._piece(draw, await self._room())
                if piece or is_over:
                    await self._send(piece, "done" if is_over else "more", with_position=True)
                self.has_ended = is_over
        except BaseException as error:
            if self.is_working:  # nobody stopped it
                self.error = error
            if isinstance(error, asyncio.CancelledError):
                raise
        finally:
            draw.close()
            if not self.has_ended:
                note_left(self._given)
                with suppress(Exception):  # a loader that has failed may not be able to
                    self._positions.rewind()
                if self.is_working:
                    self._state.fed.taken = self._positions.taken
            self.is_working = False

    async def _room(self) -> int:
        """How many tasks to draw, after waiting until a quarter of the waiting ones is gone; 0: it was stopped."""
        io, pending = self._state.io, keys.key(self._state.run, "pending")
        while self.is_working:
            room = self._ahead - int(await io.command("ZCARD", pending))
            if room >= max(1, self._ahead // 4):
                self._pause_s = max(_SHORTEST_PAUSE_S, self._pause_s / 2)
                return min(room, TASKS_PER_CALL)
            await io.pause(self._pause_s)
            self._pause_s = min(_LONGEST_PAUSE_S, self._pause_s * 2)
        return 0

    async def _piece(self, draw: Draw, room: int) -> tuple[list[Task], bool]:
        """The next tasks, and whether they are the last ones. Of a slow loader, those that it has given so far."""
        piece, until, positions = list[Task](), time.monotonic() + _SEND_AFTER_S, self._positions
        while len(piece) < room and self.is_working:
            item = await draw(max(0.0, until - time.monotonic()))
            if item is END:
                return piece, True
            if item is NOT_YET:
                if piece:
                    break
                until = time.monotonic() + _SEND_AFTER_S  # nothing to send: the room is as it was
                continue
            positions.taken += 1
            if positions.is_new:
                piece += tasks_of(item)
        return piece, False

    async def _send(self, piece: list[Task], supply: Supply, *, with_position: bool) -> None:
        position = self._positions.position() if with_position else None
        added = await self._state.feed(self, piece, position, supply)
        if self.is_working:
            self._state.fed.taken = self._positions.taken
        if piece and not added:
            self._in_vain.tell(
                "run %s: the data loader brings tasks that the run knows already, such as %s; each epoch needs ids "
                "of its own",
                *(self._state.run, piece[-1].id),
            )
            await self._state.io.pause(self._pause_s)
            self._pause_s = min(_LONGEST_PAUSE_S, self._pause_s * 2)


def tasks_of(item: Any) -> list[Task]:
    """The tasks of one item of a loader, which is a task or a batch of tasks.

    Raises:
        BadArgument: the item is neither.
    """
    if isinstance(item, Task):
        return [item]
    given: object = item
    if isinstance(item, Iterable) and not isinstance(item, (str, bytes, dict)):
        several = list(cast("Iterable[Any]", item))
        if all(isinstance(each, Task) for each in several):
            return several
    raise BadArgument(
        argument="tasks",
        given=f"one that yields {shown(given)}",
        expected="an iterable of broker.Task or of lists of them",
    )
