"""What `--chaos` does to the processes, and when. Time is an argument: nothing here waits.

To workers two things, in turns: one is killed in the midst of its work; or it is frozen until its lease has passed and
others have its work, then thawed, so that it submits late results, and killed. The trainer is killed at random moments,
sometimes again while it recovers.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from random import Random
from typing import Final, Protocol

from broker.demo.children import Child
from broker.demo.crew import Crew, Post
from broker.demo.options import DemoOptions

#: Pause before the next deed, seconds: shortest and longest. It begins when the last replacement has joined the run: on
#: a busy machine workers that are killed faster than they can start would never work.
_PAUSE_S: Final = (1.0, 2.5)

#: How long a replacement may take to join before chaos goes on without it, seconds.
_JOIN_S: Final = 20.0

#: After this long the event log tells what a frozen worker holds, seconds.
_LOOK_S: Final = 0.25

#: How often another worker is tried when the frozen one holds nothing that it could submit late.
_MOST_TRIES: Final = 5

#: How long a worker stays frozen beyond its lease, seconds: by then somebody else must have its work.
_BEYOND_LEASE_S: Final = 1.0

#: How long a thawed worker gets to submit what is not its own any more, seconds.
_THAWED_S: Final = 0.5

#: The run is cut into parts of so many steps, but at least three, and the trainer killed once in each; the end is left
#: out, where a kill might come too late.
_STEPS_A_KILL: Final = 25
_UP_TO: Final = 0.85

#: Pause between the version at which the trainer is to be killed and its end, seconds: any moment within a step.
_MOMENT_S: Final = (0.0, 0.5)

#: How often its replacement is killed on its way back, too, and how long after its start, seconds.
_AGAIN: Final = 0.5
_AGAIN_S: Final = (0.3, 1.5)


#: Something to do at a moment; answers what was done, in words.
Deed = Callable[[float], list[str]]


class Log(Protocol):
    """What chaos wants to know of the workers; the referee knows."""

    def held_by(self, worker: str) -> int:
        """How many slots a worker holds."""
        ...

    def has_joined(self, worker: str) -> bool:
        """Whether a worker has a session, or had one."""
        ...


class Chaos:
    """What the options ask for: nothing, the workers, the trainer, or all.

    Args:
        options: of the demo.
        crew: the workers.
        post: the trainer's place.
        log: what the event log tells of the workers.
    """

    def __init__(self, options: DemoOptions, crew: Crew, post: Post, log: Log) -> None:
        rng = Random(options.seed)
        self._workers = self._trainer = None
        if options.chaos in ("workers", "all"):
            self._workers = WorkerChaos(crew, log, options.lease_s, rng)
        if options.chaos in ("trainer", "all"):
            self._trainer = TrainerChaos(post, options.steps, rng)

    def act(self, now: float, version: int) -> list[str]:
        """Does what is due; see below. Nothing before there is a version to lose."""
        if version == 0:
            return []
        deeds = self._workers.act(now) if self._workers else []
        return deeds + (self._trainer.act(now, version) if self._trainer else [])


class WorkerChaos:
    """Kills and freezes workers, one at a time.

    Args:
        crew: the workers.
        log: what the event log tells of the workers.
        lease_s: after how long without a sign of life a worker's slots go to others.
        rng: chooses whom and when.
    """

    def __init__(self, crew: Crew, log: Log, lease_s: float, rng: Random) -> None:
        self._crew = crew
        self._log = log
        self._lease_s = lease_s
        self._rng = rng
        self._next: Deed = self._begin
        self._due = 0.0
        self._tries = 0

    def act(self, now: float) -> list[str]:
        """Does what is due.

        Args:
            now: seconds of a clock that does not go back.

        Returns:
            What was done, in words.
        """
        return self._next(now) if now >= self._due else []

    def _begin(self, now: float) -> list[str]:
        self._then(self._kill_any, now + self._pause())
        return []

    def _kill_any(self, now: float) -> list[str]:
        self._tries = _MOST_TRIES
        return self._kill(self._rng.choice(self._crew.workers), self._freeze, now)

    def _freeze(self, now: float) -> list[str]:
        worker = self._rng.choice(self._crew.workers)
        worker.freeze()
        self._then(lambda now: self._look(worker, now), now + _LOOK_S)
        return []

    def _look(self, worker: Child, now: float) -> list[str]:
        if self._log.held_by(worker.name) == 0 and self._tries > 0:
            self._tries -= 1
            worker.thaw()
            return self._freeze(now)
        self._then(lambda now: self._thaw(worker, now), now + self._lease_s + _BEYOND_LEASE_S)
        return [f"froze {worker.name} beyond its lease"]

    def _thaw(self, worker: Child, now: float) -> list[str]:
        worker.thaw()
        self._then(lambda now: self._kill_thawed(worker, now), now + _THAWED_S)
        return [f"thawed {worker.name}"]

    def _kill_thawed(self, worker: Child, now: float) -> list[str]:
        return self._kill(worker, self._kill_any, now)

    def _kill(self, worker: Child, following: Deed, now: float) -> list[str]:
        replacement = self._crew.replace(worker)
        self._then(lambda later: self._await(replacement, following, now, later), now)
        return [f"killed {worker.name}, started {replacement.name}"]

    def _await(self, replacement: Child, following: Deed, since: float, now: float) -> list[str]:
        if self._log.has_joined(replacement.name) or now > since + _JOIN_S:
            self._then(following, now + self._pause())
        return []

    def _pause(self) -> float:
        return self._rng.uniform(*_PAUSE_S)

    def _then(self, deed: Deed, due: float) -> None:
        self._next, self._due = deed, due


class TrainerChaos:
    """Kills the trainer.

    Args:
        post: the trainer's place.
        steps: of the run; each third of it, or each 25 steps of a long one, sees a kill.
        rng: chooses when.
    """

    def __init__(self, post: Post, steps: int, rng: Random) -> None:
        self._post = post
        self._rng = rng
        parts = max(3, steps // _STEPS_A_KILL)
        edges = [int(part * steps * _UP_TO / parts) for part in range(parts + 1)]
        self._versions = [rng.randrange(a, b) for a, b in pairwise(edges) if a < b]
        self._due: float | None = None
        self._again = False

    def act(self, now: float, version: int) -> list[str]:
        """Does what is due.

        Args:
            now: seconds of a clock that does not go back.
            version: the newest one; it may go back.

        Returns:
            What was done, in words.
        """
        if self._due is None:
            if not self._versions or version < self._versions[0]:
                return []
            del self._versions[0]
            self._due = now + self._rng.uniform(*_MOMENT_S)
            self._again = self._rng.random() < _AGAIN
        if now < self._due:
            return []
        self._post.replace()
        self._due = now + self._rng.uniform(*_AGAIN_S) if self._again else None
        self._again = False
        return [f"killed the trainer at version {version}, started another"]
