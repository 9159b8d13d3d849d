"""Kills and freezes processes for `--chaos`. Time is an argument: this module never waits.

Workers are killed and frozen in turn. One is killed in the middle of its work. The other is frozen until its lease has
passed and other workers have its work; then it is thawed, submits late results, and is killed. The trainer is killed at
random moments, sometimes again while it recovers.

Each of these is a generator, which yields the seconds until it goes on.
"""

from __future__ import annotations

import math
from collections.abc import Generator
from itertools import pairwise
from random import Random
from typing import Final

from broker.demo.options import DemoOptions
from broker.demo.processes import Child, Processes
from broker.demo.referee import Referee

#: The shortest and longest pause before the next deed, seconds. It begins when the last replacement has joined the run:
#: on a busy machine, workers that are killed faster than they start would never work.
_PAUSE_S: Final = (1.0, 2.5)

#: How long a replacement may take to join before chaos goes on without it, seconds.
_JOIN_S: Final = 20.0

#: After this long the event log tells what a frozen worker holds, seconds.
_LOOK_S: Final = 0.25

#: How often another worker is tried when the frozen one holds nothing that it could submit late.
_MOST_TRIES: Final = 5

#: How long a worker stays frozen beyond its lease, seconds: by then another worker must have its work.
_BEYOND_LEASE_S: Final = 1.0

#: How long a thawed worker gets to submit late results, seconds.
_THAWED_S: Final = 0.5

#: The run is cut into parts of this many steps, at least three parts. The trainer is killed once in each part, but not
#: near the end of the run, where a kill might come too late.
_STEPS_A_KILL: Final = 25
_UP_TO: Final = 0.85

#: The longest time between the version at which the trainer is to be killed and the kill, seconds: within a step.
_MOMENT_S: Final = (0.0, 0.5)

#: How often the replacement is killed as it recovers, and how long after its start, seconds.
_AGAIN: Final = 0.5
_AGAIN_S: Final = (0.3, 1.5)


class Chaos:
    """Kills and freezes processes as the options ask: none, the workers, the trainer, or all.

    Args:
        options: of the demo.
        processes: of the demo.
        referee: knows from the event log which workers have joined, and which hold attempts.

    Attributes:
        deeds: the kills and freezes so far, in words.
    """

    def __init__(self, options: DemoOptions, processes: Processes, referee: Referee) -> None:
        self.deeds: list[str] = []
        self._options = options
        self._processes = processes
        self._referee = referee
        self._rng = Random(options.seed)
        self._now = 0.0
        self._version = 0
        #: When each generator goes on.
        self._due: dict[Generator[float], float] = {}
        if options.chaos in ("workers", "all"):
            self._due[self._against_workers()] = 0.0
        if options.chaos in ("trainer", "all"):
            self._due[self._against_trainer()] = 0.0

    def act(self, now: float, version: int) -> None:
        """Does the deeds that are due, but none at version 0.

        Args:
            now: seconds of a monotonic clock.
            version: the newest version, which may go back.
        """
        self._now, self._version = now, version
        for against, due in self._due.items():
            if version > 0 and now >= due:
                self._due[against] = now + next(against, math.inf)

    def _against_workers(self) -> Generator[float]:
        while True:
            yield self._rng.uniform(*_PAUSE_S)
            yield from self._kill(self._any_worker())
            yield self._rng.uniform(*_PAUSE_S)
            worker = yield from self._freeze()
            self.deeds.append(f"froze {worker.name} beyond its lease")
            yield self._options.lease_s + _BEYOND_LEASE_S
            worker.thaw()
            self.deeds.append(f"thawed {worker.name}")
            yield _THAWED_S
            yield from self._kill(worker)

    def _kill(self, worker: Child) -> Generator[float]:
        """Kills a worker, and goes on when its replacement has joined."""
        replacement = self._processes.replace_worker(worker)
        self.deeds.append(f"killed {worker.name}, started {replacement.name}")
        give_up = self._now + _JOIN_S
        while not self._referee.has_joined(replacement.name) and self._now <= give_up:
            yield 0.0

    def _freeze(self) -> Generator[float, None, Child]:
        """Freezes a worker that holds an attempt, if there is one."""
        for _ in range(_MOST_TRIES):
            worker = self._any_worker()
            worker.freeze()
            yield _LOOK_S
            if self._referee.held_by(worker.name) > 0:
                return worker
            worker.thaw()
        worker = self._any_worker()
        worker.freeze()
        return worker

    def _any_worker(self) -> Child:
        return self._rng.choice(self._processes.workers)

    def _against_trainer(self) -> Generator[float]:
        steps = self._options.steps
        parts = max(3, steps // _STEPS_A_KILL)
        edges = [int(part * steps * _UP_TO / parts) for part in range(parts + 1)]
        for version in [self._rng.randrange(a, b) for a, b in pairwise(edges) if a < b]:
            while self._version < version:
                yield 0.0
            yield self._rng.uniform(*_MOMENT_S)
            self._kill_trainer()
            if self._rng.random() < _AGAIN:
                yield self._rng.uniform(*_AGAIN_S)
                self._kill_trainer()

    def _kill_trainer(self) -> None:
        self._processes.replace_trainer()
        self.deeds.append(f"killed the trainer at version {self._version}, started another")
