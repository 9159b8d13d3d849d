"""Judges a run by its event log alone: what was promised must hold at every transition, whatever the counters say."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from broker import RunConfig

Transition = tuple[str, list[str]]


@dataclass
class History:
    """Replays transitions in order and collects what breaks a guarantee.

    Args:
        config: the run's, constant over the history.
    """

    config: RunConfig
    version: int = 0
    step_next: int = 0
    #: P waiting, R running, Y ready, B in the open batch, S sealed, X finished.
    state: dict[str, str] = field(default_factory=dict[str, str])
    held: dict[str, int] = field(default_factory=dict[str, int])
    done: dict[tuple[str, str], tuple[str, int]] = field(default_factory=dict[tuple[str, str], tuple[str, int]])
    attempts: set[str] = field(default_factory=set[str])
    sealed: dict[int, list[str]] = field(default_factory=dict[int, list[str]])
    results: dict[str, list[str]] = field(default_factory=dict[str, list[str]])
    late: list[tuple[str, str]] = field(default_factory=list[tuple[str, str]])
    problems: list[str] = field(default_factory=list[str])
    most_running: int = 0
    starts: int = 0

    def replay(self, transitions: Iterable[Transition]) -> History:
        """Reads the whole log."""
        for kind, words in transitions:
            step = getattr(self, f"_{kind}", None)
            if step is not None:
                step(*words)
        return self

    def _holds(self, condition: bool, what: str) -> None:
        if not condition:
            self.problems.append(what)

    @property
    def running(self) -> int:
        """Tasks in state running."""
        return sum(state == "R" for state in self.state.values())

    @property
    def capacity(self) -> int:
        """AReaL's formula over what the log says (docs/protocol.md, Capacity)."""
        b, s = self.config.batch_size, self.config.max_staleness
        by_concurrency = self.config.concurrency - self.running
        if s is None:
            return by_concurrency
        waiting = sum(state in "YB" for state in self.state.values())
        formed = sum(max(b, len(tasks)) for step, tasks in self.sealed.items() if step >= self.version)
        accepted = self.version * b + waiting + formed
        return min(by_concurrency, (s + self.version + 1) * b - (accepted + self.running))

    def _too_old(self, version: int) -> bool:
        s = self.config.max_staleness
        return s is not None and self.config.on_stale != "keep" and self.step_next - version > s

    def _slots(self, task: str) -> list[str]:
        return [attempt for attempt in self.held if attempt.partition("#")[0] == task]

    def _finish(self, task: str, state: str) -> None:
        self._holds(not self._slots(task), f"{task} left running with live attempts")
        for name in [name for name in self.done if name[0] == task]:
            del self.done[name]
        self.state[task] = state

    # -- one method for each kind of transition ----------------------------------------------------------------------

    def _enqueue(self, task: str) -> None:
        self._holds(task not in self.state, f"{task} was enqueued twice")
        self.state[task] = "P"

    def _freed(self, task: str, state: str, _: str) -> None:
        self._holds(self.state.get(task) == "X", f"{task} was freed as {state} in state {self.state.get(task)}")
        del self.state[task]

    def _start(self, task: str, first: str) -> None:
        self._holds(self.state.get(task) == "P", f"{task} was started in state {self.state.get(task)}")
        self._holds(self.capacity > 0, f"G4: {task} was started at capacity {self.capacity}")
        self.state[task] = "R"
        self.starts += 1
        self.most_running = max(self.most_running, self.running)

    def _claim(self, attempt: str, version: str, epoch: str, session: str) -> None:
        task, _, rest = attempt.partition("#")
        slot = rest.partition(".")[0]
        self._holds(attempt not in self.attempts, f"{attempt} was handed out twice")
        self._holds(self.state.get(task) == "R", f"{attempt} was handed out in state {self.state.get(task)}")
        self._holds((task, slot) not in self.done, f"{attempt} was handed out though its slot was done")
        others = [other for other in self._slots(task) if other.startswith(f"{task}#{slot}.")]
        self._holds(not others, f"{attempt} was handed out while {others} held its slot")
        self._holds(not self._too_old(int(version)), f"{attempt} could never be used")
        self.attempts.add(attempt)
        self.held[attempt] = int(version)

    def _done(self, attempt: str, newest: str) -> None:
        task, _, rest = attempt.partition("#")
        slot = rest.partition(".")[0]
        self._holds(attempt in self.held, f"G3: {attempt} was accepted though it did not hold its slot")
        self._holds((task, slot) not in self.done, f"G2: a second result was accepted for {task}#{slot}")
        self.done[task, slot] = (attempt, self.held.pop(attempt, 0))

    def _ended(self, attempt: str, why: str) -> None:
        self._holds(attempt in self.held, f"{attempt} ended ({why}) though it did not hold its slot")
        self.held.pop(attempt, None)

    def _late(self, attempt: str, answer: str, by: str) -> None:
        self._holds(attempt not in self.held, f"{attempt} was refused though it holds its slot")
        self.late.append((attempt, answer))

    def _ready(self, task: str) -> None:
        self._holds(self.state.get(task) == "R", f"{task} became ready in state {self.state.get(task)}")
        self._holds(not self._slots(task), f"{task} became ready with live attempts")
        self.state[task] = "Y"

    def _requeue(self, task: str, why: str) -> None:
        self._holds(self.state.get(task, "?") in "RYB", f"{task} was requeued in state {self.state.get(task)}")
        self._finish(task, "P")

    def _dead(self, task: str, why: str) -> None:
        self._holds(self.state.get(task, "?") in "PRYB", f"{task} died in state {self.state.get(task)}")
        self._finish(task, "X")

    _rejected = _dead

    def _retry(self, task: str) -> None:
        self._holds(self.state.get(task) == "X", f"{task} was retried in state {self.state.get(task)}")
        self.state[task] = "P"

    def _batch(self, task: str, step: str, oldest: str) -> None:
        versions = [version for (name, _), (_, version) in self.done.items() if name == task]
        self._holds(self.state.get(task) == "Y", f"{task} was batched in state {self.state.get(task)}")
        self._holds(int(step) == self.step_next, f"{task} was batched for step {step}, the next is {self.step_next}")
        self._holds(bool(versions), f"{task} was batched without results")
        self._holds(
            not self._too_old(min(versions, default=0)), f"G5: {task} with {versions} is too old for step {step}"
        )
        self.state[task] = "B"

    def _seal(self, step: str, size: str, digest: str) -> None:
        tasks = [task for task, state in self.state.items() if state == "B"]
        self._holds(int(step) == self.step_next, f"step {step} was sealed, the next is {self.step_next}")
        self._holds(int(size) == len(tasks), f"step {step} was sealed with {size}, it has {len(tasks)}")
        self.sealed[int(step)] = tasks
        self.step_next += 1
        for task in tasks:
            self._holds(task not in self.results, f"{task} was trained on twice")
            self.results[task] = [attempt for (name, _), (attempt, _) in sorted(self.done.items()) if name == task]
            self.state[task] = "S"

    def _advance(self, version: str, epoch: str) -> None:
        self._holds(int(version) == self.version + 1, f"the version went from {self.version} to {version}")
        self.version = int(version)
        self.step_next = max(self.step_next, self.version)
