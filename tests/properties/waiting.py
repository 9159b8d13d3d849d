"""The rule of `on_stale="wait"`: nothing that was started becomes too old. A reference for Lua, and a search.

The batch of a step keeps places for rollouts that a later batch could not hold any more, and is not sealed without them.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple, TypeVar


class Due(NamedTuple):
    """What the rule looks at.

    Attributes:
        step: the next step.
        version: the run's.
        batch: B.
        limit: D, how old a rollout of a batch may be.
        size: how many rollouts the unsealed batch has.
        oldest: the version of each task that is running or ready.
    """

    step: int
    version: int
    batch: int
    limit: int
    size: int
    oldest: tuple[int, ...]


def places(due: Due, version: int, size: int) -> int:
    """The places of the steps that may train `version`, less those taken and those that as old or older tasks need.

    Args:
        due: the run.
        version: of a policy.
        size: how many places of the next step are taken.
    """
    steps = version + due.limit - due.step + 1
    return steps * due.batch - size - sum(due.step - due.limit <= oldest <= version for oldest in due.oldest)


def room(due: Due, version: int) -> int:
    """How many more tasks a worker whose weights have this version may start."""
    size = min(due.size, due.batch)
    return min(places(due, newer, size) for newer in range(version, max(version, due.version) + 1))


def bound(due: Due, least: int = 1) -> int | None:
    """The newest version that the unsealed batch may take now; None: it may take any.

    Args:
        due: the run.
        least: how many places must be left beside those that the tasks up to a version need.
    """
    if due.size >= due.batch:
        return None
    versions = range(due.step - due.limit, due.version + 1)
    return next((version for version in versions if places(due, version, due.size) < least), None)


def unsealable(due: Due) -> int | None:
    """The version up to which tasks keep the batch from being sealed; None: it may be sealed."""
    return bound(due, due.batch - due.size)


def fits(due: Due, version: int) -> bool:
    """Whether a rollout of a lost batch finds a place in the steps that are left for it."""
    return room(due, version) > 0


def bound_of_last_step(due: Due) -> int | None:
    """A wrong rule: places are kept only for rollouts whose last step this is."""
    last = due.step - due.limit
    return last if due.size < due.batch and places(due, last, due.size) < 1 else None


def no_bound(_: Due) -> int | None:
    """A wrong rule: no places are kept, or the batch is sealed without those that are due."""
    return None


def any_room(_due: Due, _version: int) -> int:
    """A wrong rule: the capacity alone admits."""
    return 1_000


def always(_due: Due, _version: int) -> bool:
    """A wrong rule: all rollouts of lost batches are ready again."""
    return True


#: A task as (is it ready, the oldest version of its samples).
Item = tuple[bool, int]
Each = TypeVar("Each", int, Item)


class World(NamedTuple):
    """A state of the search; all versions are relative to the run's, so the number of steps has no bound.

    Attributes:
        ahead: step - version: 1 if a batch is sealed and not trained.
        unsealed: the versions in the unsealed batch.
        sealed: those of the sealed batch.
        trained: those of the last trained batches, the newest last: a recovery may bring them back.
        items: the tasks that are running or ready.
    """

    ahead: int = 0
    unsealed: tuple[int, ...] = ()
    sealed: tuple[tuple[int, ...], ...] = ()
    trained: tuple[tuple[int, ...], ...] = ()
    items: tuple[Item, ...] = ()


class Search:
    """Every schedule of workers that lag, deaths, filters, prefetch, empty steps and recoveries, for small numbers."""

    def __init__(
        self,
        batch: int,
        staleness: int,
        limit: int,
        *,
        wanted: int = 0,
        lag: int = 0,
        returns: int = 0,
        room: Callable[[Due, int], int] = room,
        bound: Callable[[Due], int | None] = bound,
        unsealable: Callable[[Due], int | None] = unsealable,
        empty: Callable[[Due], int | None] = unsealable,
        fits: Callable[[Due, int], bool] = fits,
    ) -> None:
        self.batch, self.staleness, self.limit = batch, staleness, limit
        self.wanted, self.lag, self.returns = wanted or batch, lag, returns
        self.room, self.bound, self.unsealable, self.empty, self.fits = room, bound, unsealable, empty, fits

    def due(self, world: World) -> Due:
        """What the rule sees."""
        oldest = tuple(version for _, version in world.items)
        return Due(world.ahead, 0, self.batch, self.limit, len(world.unsealed), oldest)

    def capacity(self, world: World) -> int:
        """AReaL's formula."""
        sealed = sum(max(self.batch, len(each)) for each in world.sealed)
        return (self.staleness + 1) * self.batch - len(world.items) - len(world.unsealed) - sealed

    def run(self) -> int:
        """Visits every state. Returns how many there are."""
        start = World()
        seen, queue = {start}, deque([start])
        while queue:
            world = queue.popleft()
            self.check(world)
            for after in self.after(world):
                if after not in seen:
                    seen.add(after)
                    queue.append(after)
        return len(seen)

    def check(self, world: World) -> None:
        """Raises AssertionError if a task is too old, a batch is too large, or nothing can go on."""
        oldest = world.ahead - self.limit
        assert all(version >= oldest for _, version in world.items), f"a task is too old: {world}"
        assert len(world.unsealed) <= max(self.wanted, self.batch), f"a batch is too large: {world}"
        works = self.capacity(world) > 0 or any(not ready for ready, _ in world.items)
        may_prefetch = world.ahead == 0 or self.staleness > 0
        assert works or world.sealed or not may_prefetch or any(self.trainer(world)), f"nothing can go on: {world}"

    def after(self, world: World) -> Iterator[World]:
        """The states that one call can lead to."""
        due = self.due(world)
        for version in range(-self.lag, 1):
            if self.capacity(world) > 0 and world.ahead - version <= self.limit and self.room(due, version) > 0:
                yield world._replace(items=_with(world.items, (False, version)))
        for at, (ready, version) in enumerate(world.items):
            rest = _without(world.items, at)
            yield world._replace(items=rest)  # it died, was cancelled or discarded
            if not ready:
                yield world._replace(items=_with(rest, (True, version)))
        for at in range(len(world.unsealed)):
            yield world._replace(unsealed=_without(world.unsealed, at))
        if world.ahead == 0 or self.staleness > 0:
            yield from self.trainer(world)
        if world.sealed:
            yield self.advanced(world._replace(sealed=()), world.sealed[0])
        elif not world.unsealed and self.empty(due) is None:
            yield self.advanced(world._replace(ahead=1), ())
        for back in range(len(world.trained) + 1 if self.returns else 0):
            yield from self.returned(world, back)

    def trainer(self, world: World) -> Iterator[World]:
        """It takes a rollout, or seals the batch."""
        if world.ahead > 1:
            return
        due = self.due(world)
        size, bound, waits = len(world.unsealed), self.bound(due), self.unsealable(due) is not None
        if size < self.wanted or (waits and size < self.batch):
            for at, (ready, version) in enumerate(world.items):
                if ready and (bound is None or version <= bound):
                    yield world._replace(unsealed=_with(world.unsealed, version), items=_without(world.items, at))
        if size >= self.wanted and not waits and not world.sealed:
            yield world._replace(ahead=world.ahead + 1, unsealed=(), sealed=(world.unsealed,))

    def advanced(self, world: World, batch: tuple[int, ...]) -> World:
        """The step was trained: all versions are one further behind."""
        trained = tuple(_older(each) for each in (*world.trained, batch)[-self.returns :]) if self.returns else ()
        items = tuple((ready, version - 1) for ready, version in world.items)
        return World(world.ahead - 1, _older(world.unsealed), world.sealed, trained, items)

    def returned(self, world: World, back: int) -> Iterator[World]:
        """A recovery to an earlier version: surviving rollouts of lost batches are ready again where they fit."""
        lost = [*world.trained[len(world.trained) - back :], *world.sealed, world.unsealed]
        versions = sorted(version + back for batch in lost for version in batch if version + back <= 0)
        stay = tuple((ready, version + back) for ready, version in world.items if version + back <= 0)
        kept = tuple(_older(each, -back) for each in world.trained[: len(world.trained) - back])
        kept = tuple(tuple(version for version in each if version <= 0) for each in kept)
        for order in (versions, versions[::-1]):
            after = World(trained=kept, items=tuple(sorted(stay)))
            for version in order:
                if self.fits(self.due(after), version):
                    after = after._replace(items=_with(after.items, (True, version)))
            yield after


def _with(items: tuple[Each, ...], item: Each) -> tuple[Each, ...]:
    return tuple(sorted((*items, item)))


def _without(items: tuple[Each, ...], at: int) -> tuple[Each, ...]:
    return items[:at] + items[at + 1 :]


def _older(versions: Iterable[int], by: int = 1) -> tuple[int, ...]:
    return tuple(version - by for version in versions)
