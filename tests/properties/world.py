"""One run of the protocol: the model and a driver side by side, and the knowledge of their clients."""

from __future__ import annotations

from copy import deepcopy
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

from .calls import Advance, Answer, Call, Checkpoint, NewTask, Open, RecoverBegin, Submit, Trim
from .forgetting import drop_old_policies, follow_freed, follow_trim
from .ghost import Ghost, Violation
from .model import Model
from .state import Run
from .timers_and_markers import Waits, look_aside
from .view import View, claim_results, differences, view_of


class Driver(Protocol):
    """Something that executes the protocol."""

    def apply(self, call: Call, now_ms: int) -> Answer:
        """Executes a call. Returns the answer, in the words of the model."""
        ...

    def view(self) -> View:
        """The whole state; `aside` has the data that the model does not have."""
        ...

    def save(self) -> Any:
        """Returns all stored data, for `restore`."""
        ...

    def restore(self, saved: Any) -> None:
        """Restores data that `save` returned."""
        ...

    def pop_marker(self, name: str) -> bool:
        """Takes the marker `wake`, `wake:ready` or `revoked:<session>`, as a woken client does. Returns whether it was armed."""
        ...

    def read(self, view: View, now_ms: int) -> None:
        """Makes all calls that only read, and compares with the view; raises Violation."""
        ...


class ModelDriver:
    """The model itself as the system under test, to test the tests."""

    def __init__(self) -> None:
        self.model = Model()

    def apply(self, call: Call, now_ms: int) -> Answer:
        """Executes a call."""
        return self.model.apply(call, now_ms)

    def view(self) -> View:
        """The whole state."""
        return view_of(self.model.run)

    def save(self) -> Any:
        """A copy of the model's state."""
        return deepcopy(self.model.run)

    def restore(self, saved: Any) -> None:
        """The state as it was."""
        self.model.run = deepcopy(saved)

    def pop_marker(self, name: str) -> bool:
        """The model has no markers."""
        return False

    def read(self, view: View, now_ms: int) -> None:
        """The model can only be read as a whole."""


@dataclass(slots=True)
class TrainerClient:
    """What one trainer process believes; it may be fenced and not know."""

    token: str
    number: int = 0


@dataclass(slots=True)
class SessionClient:
    """The knowledge of one worker process; its session may be over."""

    id: str
    number: int = 0
    #: Attempts that it works on, oldest first.
    held: list[str] = field(default_factory=lambda: [])


class Disagreement(AssertionError):
    """The server and the model answered differently, or are in different states."""


#: How many recorded calls are kept, to be sent again late.
BAG_SIZE = 200


class World:
    """Sends calls to the model and to the driver and compares everything after each."""

    def __init__(self, driver: Driver, now_ms: int = 1_000_000_000, keep_trace: bool = True) -> None:
        self.driver = driver
        self.model = Model()
        self.ghost = Ghost()
        self.now_ms = now_ms
        self.trainers: list[TrainerClient] = []
        self.sessions: list[SessionClient] = []
        #: Earlier calls, which the network may deliver once more.
        self.bag: list[Call] = []
        #: Checkpoints on the trainers' disks.
        self.checkpoints: list[Checkpoint] = []
        #: The tasks of all checkpoints that were recovered from: what can be brought again.
        self.known: dict[str, NewTask] = {}
        #: The data set, as far as it was read: with cursor `c<n>` the loader has read the first n rows.
        self.rows: list[NewTask] = []
        #: Every attempt that was ever handed out.
        self.attempts: list[str] = []
        #: What the trainer waits for, blocked on `wake:ready`.
        self.waits = Waits()
        self.serial = 0
        self.steps = 0
        #: Whether a call raised an exception: then this world is of no more use.
        self.failed = False
        #: The calls, each with the clock and its answer.
        self.trace: list[tuple[int, Call, Answer]] = []
        self._keep_trace = keep_trace
        self._before: View = {}
        self._digests: dict[str, str] = {}
        self._replica: tuple[Any, Run | None, Ghost, View] | None = None
        #: The driver's newest data beside the state.
        self.aside: View | None = None

    def fresh(self, prefix: str) -> str:
        """A name that was never used."""
        self.serial += 1
        return f"{prefix}{self.serial}"

    def call(self, call: Call, now_ms: int | None = None, record: bool = True) -> Answer:
        """Sends a call to both, compares answers and states, and lets the ghost look.

        Raises:
            Disagreement: an answer or a piece of state differs.
            Violation: a guarantee is broken, whatever the model says.
        """
        self.failed = True
        now = self.now_ms if now_ms is None else now_ms
        self.steps += 1
        clocks = self.model.run.clocks if self.model.run else None
        expected = self.model.apply(call, now)
        if self._keep_trace:
            self.trace.append((now, call, expected))
        found = self._known(expected, self.driver.apply(self._as_sent(call), now))
        self._fail_on(Disagreement, "answer", call, differences(expected, found))
        after = self.driver.view()
        if isinstance(call, (Open, RecoverBegin)):
            self.waits = Waits()
        aside = after.pop("aside", None)
        if self.model.run is not None:
            if after:
                drop_old_policies(self.model.run, after)
            if aside is not None:
                claim_results(self.model.run, after, aside)
            if isinstance(call, (Trim, Submit)) and aside is not None:
                follow_freed(self.model.run, aside)
            if isinstance(call, Trim):
                follow_trim(self.model.run, self.ghost, after)
        self._look_aside(aside, after, clocks, now)
        expected_view = view_of(self.model.run)
        if expected_view != after:
            self._fail_on(Disagreement, "state", call, differences(expected_view, after))
        try:
            self.ghost.observe(call, found, self._before, after)
        except Violation as violation:
            raise Violation(f"{violation}\nby {call}\nanswered {found}\n{self.story()}") from None
        self._before = after
        self.failed = False
        if record:
            self.record(call)
        return found

    def _as_sent(self, call: Call) -> Call:
        """The call with the server's digest in place of the model's name of it."""
        return replace(call, digest=self._digests.get(call.digest, call.digest)) if isinstance(call, Advance) else call

    def _known(self, expected: Answer, found: Answer) -> Answer:
        """The answer with the model's name of a digest in place of it; each name stands for one digest and back."""
        if "digest" not in expected or "digest" not in found:
            return found
        digest = self._digests.setdefault(expected["digest"], found["digest"])
        if list(self._digests.values()).count(digest) > 1 or digest != found["digest"]:
            raise Disagreement(f"digest {found['digest']} is not that of {expected['digest']}\n{self.story()}")
        return {**found, "digest": expected["digest"]}

    def read(self) -> None:
        """Compares what the reading script calls say with the state."""
        if self.model.run is None or self.model.run.recovering is not None:
            return
        try:
            self.driver.read(self._before, self.now_ms)
        except Violation as violation:
            raise Violation(f"{violation}\n{self.story()}") from None

    def keep(self) -> None:
        """Keeps the state as it is now, as a replica that gets no more writes does."""
        if self.model.run is None:
            return
        self._replica = (self.driver.save(), deepcopy(self.model.run), deepcopy(self.ghost), deepcopy(self._before))

    @property
    def has_replica(self) -> bool:
        """Whether a replica is behind, to which a failover would go back."""
        return self._replica is not None

    def rewind(self) -> None:
        """The replica becomes the server: what happened since is forgotten, by it alone."""
        if self._replica is None:
            return
        saved, run, ghost, self._before = self._replica
        self._replica = None
        self.driver.restore(saved)
        self.model.run, self.ghost = run, ghost
        self.waits = Waits()

    def record(self, call: Call) -> None:
        """Keeps a call, to be delivered once more later."""
        self.bag.append(call)
        if len(self.bag) > BAG_SIZE:
            self.bag.pop(self.serial % BAG_SIZE)

    def _look_aside(self, aside: View | None, after: View, before: tuple[int, int, int] | None, now: int) -> None:
        """What the model does not decide: whether a call that changes nothing is remembered by the clocks, markers, and
        the time to live of bytes that nobody reads.
        """
        run = self.model.run
        if aside is None or run is None:
            return
        self.aside = aside
        clocks: tuple[int, int, int] = aside["clocks"]
        if clocks not in (before, run.clocks):
            raise Disagreement(f"the clocks went from {before} to {clocks} at {now}, not {run.clocks}\n{self.story()}")
        run.clocks = clocks
        try:
            look_aside(aside, after, self.model, self.waits)
        except Violation as violation:
            raise Violation(f"{violation}\n{self.story()}") from None
        for session in aside["revoked"]:
            self.driver.pop_marker(f"revoked:{session}")
        run.revoked.clear()

    def _fail_on(self, kind: type[AssertionError], what: str, call: Call, lines: list[str]) -> None:
        if lines:
            listed = "\n  ".join(lines)
            raise kind(f"different {what} after step {self.steps}: {call}\n  {listed}\n{self.story()}")

    def story(self, last: int = 40) -> str:
        """The last steps as text."""
        lines = [f"  {at} {call}\n      -> {answer}" for at, call, answer in self.trace[-last:]]
        return "\n".join([f"the last {len(lines)} of {self.steps} steps (answers are the model's):", *lines])
