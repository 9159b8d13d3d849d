"""A run with its trainer and workers in virtual time: what the broker would decide, event after event.

The rules are the broker's: capacity is `broker.inspection.capacity.terms`, and what is too old is what
`RunConfig.is_too_old` says. A test compares each event with the reference model. Workers and trainer are ideal: a free
worker claims at once, with the newest weights, and no call takes time.
"""

from __future__ import annotations

import heapq
import math
import random
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

from broker.inspection.capacity import terms
from broker.planning.setting import Outcome, Setting

#: The heartbeats of workers are spread evenly over their period: by multiples of the golden ratio.
_SPREAD: Final = 0.618034
#: Without S, generation may run ahead for ever. A simulated one stops with so many batches.
_MOST_AHEAD: Final = 1_000


@dataclass(slots=True)
class _Held:
    """A slot that a worker works on."""

    place: int
    began_s: float
    serial: int


@dataclass(slots=True)
class _Wait:
    """A batch waits for running tasks of a version or older that had started when the wait began."""

    since_s: float
    version: int
    first: int


@dataclass(slots=True)
class _Task:
    order: int
    lengths: list[float]
    first: int = 0
    oldest: int = 0
    stale_requeues: int = 0
    open: list[int] = field(default_factory=list[int])
    held: dict[int, _Held] = field(default_factory=dict[int, _Held])
    done: list[int] = field(default_factory=list[int])


#: Takes what happens: its name, when, and of what: see the test against the reference model.
Observe = Callable[[str, float, tuple[int, ...]], None]


class Simulation:
    """One simulated run.

    Args:
        setting: what is simulated.
        observe: is told each event.
    """

    def __init__(self, setting: Setting, observe: Observe | None = None) -> None:
        self.setting = setting
        self.outcome = Outcome()
        self.now_s = 0.0
        self.version = 0
        self.step_next = 0
        #: The tasks of the unsealed batch.
        self.batch: list[_Task] = []
        self.running: dict[int, _Task] = {}
        #: (deadline where it counts, first claim, order): in this order they are taken.
        self.ready: list[tuple[int, int, int]] = []
        self._tasks: dict[int, _Task] = {}
        self._observe = observe
        self._rng, self._again = random.Random(setting.seed), random.Random(setting.seed)
        self._size = setting.config.batch_size
        self._pending: list[int] = []  # tasks that start over, before new ones
        self._open: list[int] = []  # running tasks with open slots
        #: How many tasks there were so far.
        self.enqueued = 0
        self._firsts = self._serial = self._n_held = 0
        self._free = list(range(setting.places))  # a heap
        self._ends: list[tuple[float, int, int, int]] = []  # when, serial number, order, slot
        self._checks: list[tuple[float, int, int, int]] = []  # when, place, order, first claim
        self._trained_at = math.inf
        self._due: Counter[int] = Counter()  # running and ready tasks by oldest version
        self._wait: _Wait | None = None

    @property
    def accepted(self) -> int:
        """Tasks trained and waiting to be trained, as the capacity formula counts them."""
        sealed = (self.step_next - self.version) * self._size
        return self.version * self._size + len(self.ready) + len(self.batch) + sealed

    @property
    def capacity(self) -> int:
        """How many tasks may be started."""
        return terms(self.setting.config, self.version, self.accepted, len(self.running), self._n_held).capacity

    def run(self, progress: Callable[[int], None] | None = None) -> Outcome:
        """Runs all steps."""
        self._take()
        while self.outcome.steps < self.setting.steps:
            self._claim()
            self._go_on(progress)
        for task in self.running.values():
            self.outcome.busy_s += math.fsum(self.now_s - held.began_s for held in task.held.values())
        self.outcome.seconds = self.now_s
        return self.outcome

    def _tell(self, what: str, *of: int) -> None:
        if self._observe is not None:
            self._observe(what, self.now_s, of)

    def _go_on(self, progress: Callable[[int], None] | None) -> None:
        """The next event happens."""
        ends_at = self._ends[0][0] if self._ends else math.inf
        checked_at = self._checks[0][0] if self._checks else math.inf
        gives_up_at = self._wait.since_s + self.setting.config.max_wait_ms / 1000 if self._wait else math.inf
        self.now_s = min(ends_at, checked_at, self._trained_at, gives_up_at)
        if self.now_s == math.inf:
            raise RuntimeError("nothing can happen any more")
        if ends_at <= self.now_s:
            _, serial, order, slot = heapq.heappop(self._ends)
            self._end(serial, order, slot)
        elif checked_at <= self.now_s:
            _, place, order, first = heapq.heappop(self._checks)
            task = self.running.get(order)
            if task is not None and task.first == first and any(each.place == place for each in task.held.values()):
                self._tell("renew", place)
                self._reset(task)
        elif self._trained_at <= self.now_s:
            self._advance()
            if progress is not None:
                progress(self.outcome.steps)
        else:
            self._take()

    # Workers.

    def _claim(self) -> None:
        while self._free:
            task = self._next_open() or self._start()
            if task is None:
                self._tell("refused", self._free[0])
                return
            place, slot = heapq.heappop(self._free), task.open.pop(0)
            if not task.open:
                heapq.heappop(self._open)
            if not task.held and not task.done:
                task.oldest = self.version
                self._due[task.oldest] += 1
            self._serial += 1
            self._n_held += 1
            task.held[slot] = _Held(place, self.now_s, self._serial)
            if self.setting.redraws and task.stale_requeues:
                task.lengths[slot] = self.setting.lengths.draw(self._again)
            heapq.heappush(self._ends, (self.now_s + task.lengths[slot], self._serial, task.order, slot))
            self._tell("claimed", place, task.order, slot)

    def _next_open(self) -> _Task | None:
        """The first running task with an open slot. A claim resets what it finds too old."""
        config = self.setting.config
        samples = config.max_concurrent_samples
        if samples is not None and self._n_held >= samples:
            return None
        while self._open:
            task = self.running.get(self._open[0])
            if task is None or not task.open:
                heapq.heappop(self._open)
            elif self._is_too_old(task):
                self._reset(task)
            else:
                return task
        return None

    def _start(self) -> _Task | None:
        if self.capacity <= 0 or len(self.ready) >= _MOST_AHEAD * self._size:
            return None
        if self._pending:
            task = self._tasks[heapq.heappop(self._pending)]
        else:
            lengths = [self.setting.lengths.draw(self._rng) for _ in range(self.setting.samples)]
            task = self._tasks[self.enqueued] = _Task(self.enqueued, lengths)
            self.enqueued += 1
        self._firsts += 1
        task.first, task.open = self._firsts, list(range(self.setting.samples))
        self.running[task.order] = task
        heapq.heappush(self._open, task.order)
        return task

    def _end(self, serial: int, order: int, slot: int) -> None:
        """A worker hands in a sample, unless its attempt has ended."""
        task = self.running.get(order)
        held = None if task is None else task.held.get(slot)
        if task is None or held is None or held.serial != serial:
            return
        self._tell("submit", held.place, order, slot)
        if self._is_too_old(task):
            self._reset(task)
            return
        self._free_place(task.held.pop(slot))
        task.done.append(slot)
        enough = self.setting.enough or self.setting.samples
        if len(task.done) < enough:
            return
        for left in task.held.values():
            self._cut(left)
        task.held.clear()
        task.open.clear()
        del self.running[order]
        heapq.heappush(self.ready, (task.oldest if self._keeps_places else 0, task.first, order))
        if self._is_waiting and (self._keeps_places or len(self.ready) >= self._size - len(self.batch)):
            self._take()

    def _free_place(self, held: _Held) -> None:
        self.outcome.busy_s += self.now_s - held.began_s
        self._n_held -= 1
        heapq.heappush(self._free, held.place)

    def _cut(self, held: _Held) -> None:
        self.outcome.wasted_s += self.now_s - held.began_s
        self._free_place(held)

    # Staleness.

    def _is_too_old(self, task: _Task) -> bool:
        return self.setting.config.is_too_old(task.oldest, self.step_next)

    def _reset(self, task: _Task) -> None:
        """A task that is too old starts over, or ends."""
        for held in task.held.values():
            self._cut(held)
        self.outcome.wasted_s += math.fsum(task.lengths[slot] for slot in task.done)
        task.held.clear()
        task.done.clear()
        task.open.clear()
        self.running.pop(task.order, None)
        self._no_more_due(task)
        task.stale_requeues += 1
        if self.setting.config.on_stale == "drop" or task.stale_requeues > self.setting.config.max_stale_requeues:
            self.outcome.given_up += 1
            del self._tasks[task.order]
        else:
            heapq.heappush(self._pending, task.order)

    def _no_more_due(self, task: _Task) -> None:
        self._due[task.oldest] -= 1
        if not self._due[task.oldest]:
            del self._due[task.oldest]

    def _look_for_old(self) -> None:
        """After a batch was sealed: the workers learn with their heartbeats what is too old now."""
        period = self.setting.heartbeat_s
        for task in [task for task in self.running.values() if task.held and self._is_too_old(task)]:
            if not period:
                self._tell("renew", min(held.place for held in task.held.values()))
                self._reset(task)
                continue
            for held in task.held.values():
                phase = held.place * _SPREAD % 1 * period
                at = phase + math.ceil((self.now_s - phase) / period) * period
                heapq.heappush(self._checks, (max(at, self.now_s), held.place, task.order, task.first))

    # The trainer.

    @property
    def _is_waiting(self) -> bool:
        return self.step_next == self.version

    def _take(self) -> None:
        """Fills the batch, and seals it if it is full."""
        self._tell("take", self.step_next)
        while self.ready and len(self.batch) < self._size:
            task = self._tasks[self.ready[0][2]]
            newest = self._bound()
            if newest is not None and task.oldest > newest:
                break
            self._tell("took", task.order)
            heapq.heappop(self.ready)
            if self._is_too_old(task):
                self._reset(task)
                continue
            self._no_more_due(task)
            self.batch.append(task)
        if len(self.batch) < self._size:
            if self._await():
                self._take()
            return
        self._wait = None
        for task in self.batch:
            del self._tasks[task.order]
            self.outcome.trained += len(task.done)
            self.outcome.used_s += math.fsum(task.lengths[slot] for slot in task.done)
            self.outcome.staleness[self.step_next - task.oldest] += 1
        self.outcome.tasks += self._size
        self._tell("sealed", *(task.order for task in self.batch))
        self.batch = []
        self.step_next += 1
        self._trained_at = self.now_s + self.setting.train_s
        self._look_for_old()

    def _advance(self) -> None:
        self._trained_at = math.inf
        self.version += 1
        self.outcome.steps += 1
        self._tell("advance", self.version)
        self._take()

    # on_stale="wait": the batch keeps places for what is due before a later rollout.

    @property
    def _keeps_places(self) -> bool:
        return self.setting.config.on_stale == "wait"

    def _bound(self) -> int | None:
        """The newest version that the batch may take now; None: any."""
        limit = self.setting.config.oldest_trained
        if not self._keeps_places or limit is None:
            return None
        due = 0
        for version in range(self.step_next - limit, self.version + 1):
            due += self._due[version]
            if (version + limit - self.step_next + 1) * self._size - len(self.batch) - due < 1:
                return version
        return None

    def _await(self) -> bool:
        """Begins, keeps or ends the wait for running tasks. Returns whether it was too long, and tasks start over."""
        version = self._bound()
        if version is None:
            self._wait = None
            return False
        if self._wait is None or version > self._wait.version:
            self._wait = _Wait(self.now_s, version, self._firsts)
        wait = self._wait
        wait.version = version
        if self.now_s < wait.since_s + self.setting.config.max_wait_ms / 1000:
            return False
        due = [task for task in self.running.values() if task.oldest <= version]
        late = [task for task in due if task.first <= wait.first]
        for task in late:
            self._reset(task)
        self._wait = _Wait(self.now_s, version, self._firsts) if len(due) > len(late) else None
        return bool(late)
