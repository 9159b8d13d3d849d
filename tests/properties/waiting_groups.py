"""A search over groups in the mode `wait`: open slots are closed to older weights, and workers load new ones when told.

A worker is told that its weights are stale where the run's own version would get more than its own.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from typing import NamedTuple

from .waiting import Due, bound, room

#: The steps that the search goes through.
MOST_STEPS = 3
#: A slot that is open, and one that is done; a held one has the number of its worker.
OPEN, DONE = -1, -2
#: The version of a worker that is gone.
GONE = -1

Group = tuple[int, tuple[int, ...]]


class Groups(NamedTuple):
    """A state of the search.

    Attributes:
        version: the run's; also its next step.
        unsealed: the versions in the unsealed batch.
        tasks: the oldest version and the slots of each task that is running or ready.
        workers: the version that each has loaded.
    """

    version: int
    unsealed: tuple[int, ...]
    tasks: tuple[Group, ...]
    workers: tuple[int, ...]


class GroupSearch:
    """Every schedule of two workers that make groups of two samples. One of the workers may go for good."""

    def __init__(
        self, batch: int, staleness: int, concurrency: int, *, told_of_slots: bool = True, closed: bool = True
    ) -> None:
        self.batch, self.staleness, self.concurrency = batch, staleness, concurrency
        self.told_of_slots, self.closed = told_of_slots, closed

    def run(self) -> int:
        """Visits every state. Returns how many there are.

        Raises:
            AssertionError: a task is too old, or nothing can go on any more.
        """
        start = Groups(0, (), (), (0, 0))
        seen, queue = {start}, deque([start])
        while queue:
            state = queue.popleft()
            assert all(oldest + self.staleness >= state.version for oldest, _ in state.tasks), f"too old: {state}"
            after = [*self._work(state), *self._train(state)]
            assert after or state.version > MOST_STEPS, f"nothing can go on: {state}"
            for each in (*after, *self._losses(state)):
                if each not in seen:
                    seen.add(each)
                    queue.append(each)
        return len(seen)

    def _due(self, state: Groups) -> Due:
        oldest = tuple(oldest for oldest, _ in state.tasks)
        return Due(state.version, state.version, self.batch, self.staleness, len(state.unsealed), oldest)

    def _may_start(self, state: Groups, version: int) -> bool:
        running = sum(any(slot != DONE for slot in slots) for _, slots in state.tasks)
        left = (self.staleness + 1) * self.batch - len(state.tasks) - len(state.unsealed)
        fresh = state.version - version <= self.staleness
        return left > 0 and running < self.concurrency and fresh and room(self._due(state), version) > 0

    def _work(self, state: Groups) -> Iterator[Groups]:
        for worker, version in enumerate(state.workers):
            if version == GONE or state.version > MOST_STEPS:
                continue
            gets = False
            for at, (oldest, slots) in enumerate(state.tasks):
                if OPEN in slots and (version >= oldest or not self.closed):
                    gets = True
                    yield _changed(state, at, (min(oldest, version), _put(slots, slots.index(OPEN), worker)))
            if not gets and self._may_start(state, version):
                gets = True
                yield state._replace(tasks=tuple(sorted((*state.tasks, (version, (worker, OPEN))))))
            if not gets and version < state.version and self._is_told(state, version):
                yield state._replace(workers=_put(state.workers, worker, state.version))
        for at, (oldest, slots) in enumerate(state.tasks):
            for index, slot in enumerate(slots):
                if slot >= 0:
                    yield _changed(state, at, (oldest, _put(slots, index, DONE)))

    def _is_told(self, state: Groups, version: int) -> bool:
        is_open = any(OPEN in slots for _, slots in state.tasks)
        too_old = state.version - version > self.staleness
        return too_old or self._may_start(state, state.version) or (self.told_of_slots and is_open)

    def _train(self, state: Groups) -> Iterator[Groups]:
        due = self._due(state)
        newest = bound(due)
        if len(state.unsealed) == self.batch:
            yield state._replace(version=state.version + 1, unsealed=())
            return
        for at, (oldest, slots) in enumerate(state.tasks):
            if all(slot == DONE for slot in slots) and (newest is None or oldest <= newest):
                rest = (*state.tasks[:at], *state.tasks[at + 1 :])
                yield state._replace(unsealed=tuple(sorted((*state.unsealed, oldest))), tasks=rest)

    def _losses(self, state: Groups) -> Iterator[Groups]:
        if GONE in state.workers:
            return
        for worker in range(len(state.workers)):
            slots_left = [
                (oldest, tuple(OPEN if each == worker else each for each in slots)) for oldest, slots in state.tasks
            ]
            tasks = tuple(sorted(each for each in slots_left if any(slot != OPEN for slot in each[1])))
            yield state._replace(tasks=tasks, workers=_put(state.workers, worker, GONE))


def _put(values: tuple[int, ...], at: int, value: int) -> tuple[int, ...]:
    return (*values[:at], value, *values[at + 1 :])


def _changed(state: Groups, at: int, task: Group) -> Groups:
    return state._replace(tasks=tuple(sorted((*state.tasks[:at], task, *state.tasks[at + 1 :]))))
