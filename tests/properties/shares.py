"""The rule of fair shares: owners that train each step together share one bound. A reference for Lua, and a search.

All numbers are relative to the trained rollouts. `ahead` of an owner is the number of rollouts that it accepted beyond
version * share; `ahead` of a run is the number accepted beyond version * batch.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

#: The value of an owner that asked for no share.
UNSAID = -1


class Bound(NamedTuple):
    """The bound that the owners share: the batch, the staleness, and how many may run at once."""

    batch: int
    staleness: int
    concurrency: int


class Part(NamedTuple):
    """One owner, as the rule sees it. busy: rollouts that it has running or was promised."""

    given: int
    share: int
    ahead: int
    busy: int


def shares(batch: int, given: Sequence[int]) -> list[int]:
    """The shares, in the order of joining: first the owners that asked for one; the others split the rest."""
    left, found = batch, [0] * len(given)
    for i, said in enumerate(given):
        if said != UNSAID:
            found[i] = min(said, left)
            left -= found[i]
    others = [i for i, said in enumerate(given) if said == UNSAID]
    for rank, i in enumerate(others):
        found[i] = left // len(others) + (rank < left % len(others))
    return found


def need(part: Part) -> int:
    """How many rollouts an owner lacks for this step: at most its share, also if its reports are late."""
    return max(0, min(part.share, part.share - part.ahead - part.busy))


def need_without_lag(part: Part) -> int:
    """A wrong rule: busy rollouts count for this step, although the step before may have trained them."""
    return max(0, part.share - max(0, part.ahead) - part.busy)


def room(bound: Bound, parts: Sequence[Part], mine: int, ahead: int, need: Callable[[Part], int] = need) -> int:
    """How many rollouts the owner `mine` may start: the rule under test."""
    busy = sum(part.busy for part in parts)
    needs = sum(need(part) for i, part in enumerate(parts) if i != mine)
    if any(part.given > 0 for part in parts):
        needs += bound.batch - sum(part.share for part in parts)
    by_staleness = (bound.staleness + 1) * bound.batch - ahead - busy
    return min(bound.concurrency - busy, by_staleness - needs)


def room_by_formula(bound: Bound, parts: Sequence[Part], _: int, ahead: int) -> int:
    """AReaL's rule: it ignores the needs of the others."""
    busy = sum(part.busy for part in parts)
    return min(bound.concurrency - busy, (bound.staleness + 1) * bound.batch - ahead - busy)


def room_of_both_terms(bound: Bound, parts: Sequence[Part], mine: int, ahead: int) -> int:
    """A wrong rule: the needs of the others also reduce the concurrency."""
    needs = sum(need(part) for i, part in enumerate(parts) if i != mine)
    return room_by_formula(bound, parts, mine, ahead) - needs


def room_without_the_absent(bound: Bound, parts: Sequence[Part], mine: int, ahead: int) -> int:
    """A wrong rule: no slots are kept for ranks that have not joined yet."""
    return room(bound, [part._replace(given=UNSAID) for part in parts], mine, ahead)


def room_without_lag(bound: Bound, parts: Sequence[Part], mine: int, ahead: int) -> int:
    """A wrong rule: see `need_without_lag`."""
    return room(bound, parts, mine, ahead, need_without_lag)


# -- the search --------------------------------------------------------------------------------------------------------

ABSENT, LIVE, DEAD = range(3)


class Rank(NamedTuple):
    """One rank of a training.

    Attributes:
        life: absent, live, or dead with a lease that has not run out.
        ahead, running: the numbers that the server knows.
        untold: rollouts that it accepted and has not reported yet.
        hand: rollouts that it can train on.
    """

    life: int = ABSENT
    ahead: int = 0
    running: int = 0
    untold: int = 0
    hand: int = 0


class World(NamedTuple):
    """All ranks. trained: a step was trained, and the server does not know the new version yet."""

    ranks: tuple[Rank, ...]
    ahead: int = 0
    trained: bool = False
    deaths: int = 0
    recoveries: int = 0


class Search:
    """Searches every schedule of ranks that asked for shares, in a small world.

    Args:
        given: the share of each rank.
        staleness, concurrency: of the bound.
        deaths, recoveries: at most so many.
        rule: what lets a rank start a rollout.
        loses: whether what a dead rank had accepted is given back.
    """

    def __init__(
        self, given: Sequence[int], staleness: int, concurrency: int = 99, *, deaths: int = 0, recoveries: int = 0,
        untold: bool = False, rule: Callable[[Bound, Sequence[Part], int, int], int] = room, loses: bool = True, all_there: bool = False,
    ) -> None:  # fmt: skip
        self.given, self.bound = given, Bound(sum(given), staleness, concurrency)
        self.rule, self.loses, self.untold = rule, loses, untold
        life = LIVE if all_there else ABSENT
        self.start = World(tuple(Rank(life) for _ in given), deaths=deaths, recoveries=recoveries)

    def run(self) -> int:
        """Searches all states. Returns how many there are.

        Raises:
            AssertionError: a state exceeds the bound, or from some state no step can ever be trained.
        """
        before: dict[World, list[World]] = {self.start: []}
        queue, goals = deque([self.start]), list[World]()
        while queue:
            world = queue.popleft()
            held = sum(rank.hand + rank.running - rank.untold for rank in world.ranks)
            trained = self.bound.batch if world.trained else 0
            assert held + trained <= (self.bound.staleness + 1) * self.bound.batch, f"above the bound: {world}"
            for following in self._next(world):
                if following.trained > world.trained:
                    goals.append(world)
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

    def _next(self, world: World) -> Iterable[World]:
        ranks = world.ranks

        def changed(i: int, more: int = 0, died: int = 0, **fields: int) -> World:
            told = (*ranks[:i], ranks[i]._replace(**fields), *ranks[i + 1 :])
            return world._replace(ranks=told, ahead=world.ahead + more, deaths=world.deaths - died)

        there = [i for i, rank in enumerate(ranks) if rank.life != ABSENT]
        parts = [Part(self.given[i], self.given[i], ranks[i].ahead, ranks[i].running) for i in there]
        for i, rank in enumerate(ranks):
            if rank.life == ABSENT:
                yield changed(i, life=LIVE)
            elif rank.life == DEAD:
                if not world.trained:
                    yield changed(i, -max(0, rank.ahead) if self.loses else 0, life=ABSENT, ahead=0, running=0)
            else:
                if self.rule(self.bound, parts, there.index(i), world.ahead) > 0:
                    yield changed(i, running=rank.running + 1)
                if rank.running > rank.untold:
                    yield changed(i, running=rank.running - 1)
                    if self.untold:
                        yield changed(i, untold=rank.untold + 1, hand=rank.hand + 1)
                    else:
                        yield changed(i, 1, running=rank.running - 1, ahead=rank.ahead + 1, hand=rank.hand + 1)
                if rank.untold:
                    yield changed(
                        i, rank.untold, running=rank.running - rank.untold, ahead=rank.ahead + rank.untold, untold=0
                    )
                if world.deaths:
                    yield changed(i, 0, 1, life=DEAD, hand=0, running=rank.running - rank.untold, untold=0)
        if world.trained:
            told = tuple(
                rank._replace(ahead=rank.ahead - share if rank.life != ABSENT else 0)
                for rank, share in zip(ranks, self.given, strict=True)
            )
            yield world._replace(ranks=told, ahead=world.ahead - self.bound.batch, trained=False)
        elif all(rank.life == LIVE and rank.hand >= share for rank, share in zip(ranks, self.given, strict=True)):
            told = tuple(rank._replace(hand=rank.hand - share) for rank, share in zip(ranks, self.given, strict=True))
            yield world._replace(ranks=told, trained=True)
        if world.recoveries and not world.trained and all(rank.life == LIVE for rank in ranks):
            told = tuple(Rank(LIVE, 0, rank.running - rank.untold) for rank in ranks)
            yield world._replace(ranks=told, ahead=0, recoveries=world.recoveries - 1)
