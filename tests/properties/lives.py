"""Trainings that start over, or go back, under one name, while leases of the dead training live: a search of the rule for it.

A run learns that a training is another one only when all owners of the training before have ended. Until then the new
owners may train steps, and the run counts for both trainings.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Sequence
from itertools import takewhile
from typing import NamedTuple

from tests.properties.shares import UNSAID, Bound, Part, room, shares


class Owner(NamedTuple):
    """One owner, as the run knows it, and what only the owner knows.

    Attributes:
        given, share, base, accepted, running: as in the run's records.
        first: the version that it joined with, then that of its first report; None: it has said none; found: that of
            the run then.
        version: that of its newest report; trained: its own version.
        hand: rollouts that it can train on.
    """

    given: int
    share: int = 0
    base: int = 0
    accepted: int = 0
    running: int = 0
    first: int | None = None
    found: int = 0
    version: int = -1
    trained: int = 0
    hand: int = 0


class World(NamedTuple):
    """A run. dead: owners of the training before whose leases live; new: those that joined later.

    `is_known`: the run knows that they are of another training. `is_one`: it takes all of them for one training.
    In `OneTraining` also: `pool`: rollouts that were accepted and that no step has trained; `to_join`: so many owners.
    """

    version: int
    accepted: int
    dead: tuple[Owner, ...]
    new: tuple[Owner, ...] = ()
    is_known: bool = False
    is_one: bool = False
    pool: int = 0
    to_join: int = 0


#: Version, accepted and the new owners' bases of a training that starts over; None: nothing changes.
Beginning = tuple[int, int, list[int]] | None


def begin(world: World, batch: int) -> Beginning:
    """The rule: it goes on from the highest version, and only what the new owners accepted and did not train counts."""
    if any(owner.first is not None and 0 < owner.first >= owner.found for owner in world.new):
        return None
    highest = max(owner.version for owner in world.new)
    began = min(owner.first for owner in world.new if owner.first is not None)
    bases = [
        max(
            owner.share * (began if owner.first is None else owner.first),
            owner.share * max(owner.version, highest - 1) - owner.accepted,
        )
        for owner in world.new
    ]
    ahead = [base + owner.accepted - owner.share * highest for base, owner in zip(bases, world.new, strict=True)]
    return highest, highest * batch + sum(ahead), bases


def begin_at_zero_only(world: World, batch: int) -> Beginning:
    """A wrong rule: a training that trained a step meanwhile is taken for a part of the dead one."""
    return begin(world, batch) if all(owner.version <= 0 for owner in world.new) else None


def begin_after_zero_only(world: World, batch: int) -> Beginning:
    """A wrong rule: a training that goes back to a checkpoint and announces nothing is taken for a part of the dead one."""
    return None if any(owner.first for owner in world.new) else begin(world, batch)


def begin_with_all(world: World, batch: int) -> Beginning:
    """A wrong rule: what the dead had accepted counts on."""
    begun = begin(world, batch)
    return begun and (begun[0], max(begun[1], world.accepted), begun[2])


def may_be_of_the_dead(owner: Owner) -> bool:
    """Whether an owner that joined later may be of one training with an earlier one that reports."""
    return owner.first is not None and owner.first >= owner.found


def anyone_may(_: Owner) -> bool:
    """A wrong rule: whoever joined before an earlier owner reports is of its training."""
    return True


class Search:
    """Searches every schedule of new ranks, from one state in which a training died.

    Args:
        given: the shares of the new ranks: as many as the dead had.
        staleness: of the bound.
        version: of the dead training; back_to: where the new one begins, if not at 0.
        had: of each dead rank, how many rollouts it had accepted and not trained, and how many it had running.
        steps: the new training has this many steps.
        hangs: the dead may report as long as their leases live.
        tells: who joins says its version; earlier releases do not.
        begins, adopts: the rules under test.
    """

    def __init__(
        self, given: Sequence[int], staleness: int, version: int, had: Sequence[tuple[int, int]], *, steps: int = 3,
        back_to: int = 0, hangs: bool = False, tells: bool = True,
        begins: Callable[[World, int], Beginning] = begin, adopts: Callable[[Owner], bool] = may_be_of_the_dead,
    ) -> None:  # fmt: skip
        self.given, self.hangs, self.tells, self.begins, self.adopts = given, hangs, tells, begins, adopts
        self.back_to, self.ends_at = back_to, back_to + steps
        self.trains = [1 if one == UNSAID else one for one in given]
        self.bound = Bound(sum(self.trains), staleness, 99)
        dead = tuple(
            Owner(one, share, 0, share * version + more, running)
            for one, share, (more, running) in zip(given, self.trains, had, strict=True)
        )
        self.start = World(version, version * self.bound.batch + sum(more for more, _ in had), dead)

    def run(self) -> int:
        """Searches all states. Returns how many there are.

        Raises:
            AssertionError: a state exceeds the bound, or from some state the training cannot end.
        """
        before: dict[World, list[World]] = {self.start: []}
        queue, goals = deque([self.start]), list[World]()
        while queue:
            world = queue.popleft()
            assert self._held(world) <= (self.bound.staleness + 1) * self.bound.batch, f"above the bound: {world}"
            if self._has_ended(world):
                goals.append(world)
                continue
            for following in self._next(world):
                if following not in before:
                    before[following] = []
                    queue.append(following)
                before[following].append(world)
        reaching, stack = set(goals), goals
        while stack:
            for world in before[stack.pop()]:
                if world not in reaching:
                    reaching.add(world)
                    stack.append(world)
        stuck = next((world for world in before if world not in reaching), None)
        assert stuck is None, f"no step can be trained any more: {stuck}"
        return len(before)

    def _held(self, world: World) -> int:
        return sum(owner.hand + owner.running for owner in world.new)

    def _has_ended(self, world: World) -> bool:
        return bool(world.new) and world.new[0].trained == self.ends_at

    def _next(self, world: World) -> Iterable[World]:
        if len(world.new) < len(self.given):
            # Nothing is kept for a rank that asked for no share and has not joined: those join together.
            yield self._joined(
                world, self.given if self.given[0] == UNSAID else self.given[len(world.new) : len(world.new) + 1]
            )
        for i, owner in enumerate(world.dead):
            ahead = owner.base + owner.accepted - owner.share * world.version
            lost = max(0, ahead) if owner.given > 0 else 0
            rest = world._replace(dead=world.dead[:i] + world.dead[i + 1 :], accepted=world.accepted - lost)
            yield self._assigned(rest)
            if self.hangs and not world.is_known and world.new and all(self.adopts(new) for new in world.new):
                yield world._replace(is_one=True)
        for i in range(len(world.new)):
            told = self._told(world, i)
            yield told
            owner = told.new[i]
            if self._room(told, len(told.dead) + i) > 0:
                yield _with(told, i, owner._replace(running=owner.running + 1))
            if owner.running:
                accepted = owner._replace(running=owner.running - 1, accepted=owner.accepted + 1, hand=owner.hand + 1)
                yield _with(told, i, accepted)._replace(accepted=told.accepted + 1)
        trained = list(zip(world.new, self.trains, strict=False))
        if len(trained) == len(self.given) and all(owner.hand >= share for owner, share in trained):
            new = (owner._replace(trained=owner.trained + 1, hand=owner.hand - share) for owner, share in trained)
            yield world._replace(new=tuple(new))

    def _joined(self, world: World, joining: Sequence[int], version: int | None = None) -> World:
        trained = self.back_to if version is None else version
        said = Owner(0, first=trained if self.tells else None, found=world.version, trained=trained)
        return self._assigned(world._replace(new=(*world.new, *(said._replace(given=one) for one in joining))))

    def _told(self, world: World, i: int) -> World:
        """A report of a new owner."""
        owner = world.new[i]
        if owner.version < 0:
            owner = owner._replace(first=owner.trained, found=world.version)
        world = _with(world, i, owner._replace(version=owner.trained))
        if not (world.dead or world.is_known or world.is_one):
            begun = self.begins(world, self.bound.batch)
            world = world._replace(is_known=True)
            if begun:
                version, accepted, bases = begun
                new = tuple(owner._replace(base=base) for owner, base in zip(world.new, bases, strict=True))
                world = world._replace(version=version, accepted=accepted, new=new)
        return world._replace(version=max(world.version, owner.trained))

    def _room(self, world: World, i: int) -> int:
        """Of an owner, with its number among all."""
        owners = (*world.dead, *world.new)
        parts = [Part(o.given, o.share, o.base + o.accepted - o.share * world.version, o.running) for o in owners]
        ahead = world.accepted - world.version * self.bound.batch
        return room(self.bound, parts, i, ahead)

    def _assigned(self, world: World) -> World:
        owners = (*world.dead, *world.new)
        split = shares(self.bound.batch, [owner.given for owner in owners])
        changed = tuple(
            owner._replace(share=share, base=owner.base + world.version * (share - owner.share))
            for owner, share in zip(owners, split, strict=True)
        )
        return world._replace(dead=changed[: len(world.dead)], new=changed[len(world.dead) :])


def _with(world: World, i: int, owner: Owner) -> World:
    return world._replace(new=(*world.new[:i], owner, *world.new[i + 1 :]))


class OneTraining(Search):
    """Searches every schedule of owners of one training, which join one after the other and close, each when it likes.

    `dead` are those that the run knows to be of one training; here they live. Who trains has what all of them accepted.
    """

    def __init__(self, owners: int, staleness: int, *, batch: int = 1, steps: int = 2, tells: bool = True) -> None:
        super().__init__([UNSAID] * batch, staleness, 0, [(0, 0)] * batch, steps=steps, tells=tells)
        self.start = self._assigned(World(0, 0, (Owner(UNSAID, version=0),), to_join=owners - 1))

    def _held(self, world: World) -> int:
        return world.pool + sum(owner.running for owner in (*world.dead, *world.new))

    def _has_ended(self, world: World) -> bool:
        owners = (*world.dead, *world.new)
        return not owners or owners[0].trained == self.ends_at

    def _next(self, world: World) -> Iterable[World]:
        owners, batch = (*world.dead, *world.new), self.bound.batch
        if world.to_join:
            yield self._joined(world._replace(to_join=world.to_join - 1), [UNSAID], owners[0].trained)
        for i in range(len(owners)):
            told = self._heard(world, i)
            yield told
            owner = (*told.dead, *told.new)[i]
            if self._room(told, i) > 0:
                yield _changed(told, i, owner._replace(running=owner.running + 1))
            if owner.running:
                accepted = owner._replace(running=owner.running - 1, accepted=owner.accepted + 1)
                yield _changed(told, i, accepted)._replace(accepted=told.accepted + 1, pool=told.pool + 1)
            yield self._assigned(_changed(told, i))
        if world.pool >= batch:
            dead, new = (
                tuple(one._replace(trained=one.trained + 1) for one in part) for part in (world.dead, world.new)
            )
            yield world._replace(dead=dead, new=new, pool=world.pool - batch)

    def _heard(self, world: World, i: int) -> World:
        """A report: of one that the run knows, which those that joined since are of one training with; or of another."""
        if i >= len(world.dead):
            told = self._told(world, i - len(world.dead))
            # Once they have begun a training of their own, the run knows them.
            return told._replace(dead=told.new, new=(), is_known=False) if told.is_known else told
        known, dead = len(world.dead) + len(list(takewhile(self.adopts, world.new))), world.dead
        owners = (*dead[:i], dead[i]._replace(version=dead[i].trained), *dead[i + 1 :], *world.new)
        version = max(world.version, dead[i].trained)
        return world._replace(version=version, dead=owners[:known], new=owners[known:])


def _changed(world: World, i: int, *owner: Owner) -> World:
    """Another owner in the place of one, with its number among all; or none: it has closed."""
    owners, known = [*world.dead, *world.new], len(world.dead)
    owners[i : i + 1] = owner
    known -= i < known and not owner
    return world._replace(dead=tuple(owners[:known]), new=tuple(owners[known:]))
