"""The processes of a demo: as many workers as asked for and one trainer, whoever is killed among them."""

from __future__ import annotations

import time
from collections.abc import Callable

from broker.demo.children import LEAVE_S, Child


class ChildFailed(Exception):
    """A child ended by itself though it should not have. The message holds what it wrote to standard error."""


class Crew:
    """Worker processes, named w1, w2 and so on; a replacement has a new name.

    Args:
        size: how many.
        hire: starts the worker of that name.

    Attributes:
        workers: those that should be alive.
        killed: SIGKILLs sent so far.
    """

    def __init__(self, size: int, hire: Callable[[str], Child]) -> None:
        self.workers: list[Child] = []
        self.killed = 0
        self._hire = hire
        self._hired = 0
        for _ in range(size):
            self._add()

    def replace(self, worker: Child) -> Child:
        """Kills a worker with SIGKILL and starts another in its place."""
        self.workers.remove(worker)
        worker.kill()
        worker.reap(0)
        self.killed += 1
        return self._add()

    def check(self) -> None:
        """Raises ChildFailed when a worker ended that nobody killed."""
        for worker in self.workers:
            if worker.exit_code is not None:
                raise ChildFailed(failure(worker))

    def dismiss(self) -> None:
        """Ends all workers in order, and those that do not leave by force."""
        dismiss(self.workers)
        self.workers.clear()

    def _add(self) -> Child:
        self._hired += 1
        worker = self._hire(f"w{self._hired}")
        self.workers.append(worker)
        return worker


class Post:
    """The trainer's place: filled by one process, and by another one when that is killed.

    Args:
        hire: starts the process.

    Attributes:
        child: who fills it now.
        killed: SIGKILLs sent so far.
    """

    def __init__(self, hire: Callable[[], Child]) -> None:
        self.child = hire()
        self.killed = 0
        self._hire = hire
        self._said: list[str] = []

    def replace(self) -> None:
        """Kills the process with SIGKILL and starts another in its place."""
        self.child.kill()
        self._said += self.child.last_lines()
        self.child.reap(0)
        self.killed += 1
        self.child = self._hire()

    def lines(self) -> list[str]:
        """What was printed since the last call, by whoever filled the place."""
        said, self._said = self._said, []
        return said + (self.child.lines() if self.child.exit_code is None else self.child.last_lines())

    def done(self) -> bool:
        """Whether the process ended as it should; raises ChildFailed when it ended otherwise."""
        code = self.child.exit_code
        if code:
            raise ChildFailed(failure(self.child))
        return code == 0

    def dismiss(self) -> None:
        """Ends the process in order, or by force."""
        dismiss([self.child])


def dismiss(children: list[Child]) -> None:
    """Asks all of them to leave, then waits for all together."""
    for child in children:
        child.ask_to_leave()
    deadline = time.monotonic() + LEAVE_S
    for child in children:
        child.reap(max(0.0, deadline - time.monotonic()))


def failure(child: Child) -> str:
    """How a child ended, in words."""
    code = child.exit_code
    how = f"was ended by signal {-code}" if code is not None and code < 0 else f"ended with exit code {code}"
    said = child.errors() or "(it wrote nothing to standard error)"
    return f"the demo's {child.name} (process {child.pid}) {how}:\n{said}"
