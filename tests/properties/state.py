"""The state of the reference model, and everything that follows from it.

Only what cannot be derived is stored. Orders, sets and the counters `running` and `accepted` are computed from tasks
by their definitions (docs/protocol.md, Capacity: I1, I2): comparing them with the stored ones of the server tests its book-keeping.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from .breaker import Breaker
from .calls import Answer, Policy
from .config import Config
from .quarantine import Ailing
from .waiting import Due, bound, fits, room, unsealable

TaskState = Literal["pending", "delayed", "running", "ready", "batched", "dead", "rejected"]
#: Open, waiting for its backoff, held, done, failed for good, surplus.
Letter = Literal["O", "W", "H", "D", "F", "S"]


@dataclass(slots=True)
class Slot:
    """One sample of a task, with what is known of its last attempt."""

    letter: Letter = "O"
    claims: int = 0
    tries: int = 0
    random: str = ""
    policy: Policy = (0, "")
    session: str = ""
    #: When it was claimed, or when it ended without a result.
    claimed_ms: int = 0
    #: How long the accepted attempt was held, unless its result was thrown away.
    length_ms: int | None = None
    #: Why the last attempt ended ("" while it is held, or never was).
    ended: str = ""
    newest: int = 0
    newest_epoch: str = ""
    #: When a W slot becomes open.
    due_ms: int = 0
    #: Hard deadline of the attempt, 0 for none.
    deadline_ms: int = 0
    #: The attempt before the one that holds it expired.
    expired_before: bool = False
    #: F because of an error (an expiry counts as one).
    by_error: bool = False
    #: Sessions whose worker faults count together, how many faults those were, and until when these sessions do not get
    #: the slot.
    faulty: list[str] = field(default_factory=list[str])
    faults: int = 0
    barred_ms: int = 0


@dataclass(slots=True)
class Task:
    """One task."""

    id: str
    payload: bytes
    samples: int
    min_samples: int
    priority: int
    order: int
    slots: list[Slot]
    state: TaskState = "pending"
    first: int = 0
    oldest: int | None = None
    newest: int | None = None
    stale_requeues: int = 0
    requeues: int = 0
    step: int | None = None
    reason: str = ""
    #: The order that it was enqueued with; a retry gives it another one.
    born: int = 0
    due_ms: int = 0
    ended_ms: int = 0
    #: Of its last failed attempt: its id, whose fault it was, and the error.
    last_error: tuple[str, str, str] | None = None
    #: Over the run's, where given.
    timeout_ms: int | None = None
    max_attempts: int | None = None
    enough: int | None = None

    @property
    def place(self) -> tuple[int, int]:
        """Where it stands among waiting and open tasks."""
        return (-self.priority, self.order)

    @property
    def errors(self) -> int:
        """Slots that failed for good with an error."""
        return sum(slot.by_error for slot in self.slots)

    def has(self, letters: str) -> bool:
        """Whether any slot is in one of these states."""
        return any(slot.letter in letters for slot in self.slots)

    def count(self, letter: Letter) -> int:
        """How many slots are in this state."""
        return sum(slot.letter == letter for slot in self.slots)

    def open_to(self, index: int, session: str, now_ms: int) -> bool:
        """Whether a slot is open, and the session has not just failed at it."""
        slot = self.slots[index]
        return slot.letter == "O" and not (session in slot.faulty and now_ms < slot.barred_ms)

    def attempt_id(self, index: int) -> str:
        """The id of the slot's last attempt."""
        slot = self.slots[index]
        return f"{self.id}#{index}.{slot.claims}.{slot.random}"


@dataclass(slots=True)
class Batch:
    """The rollouts of one step."""

    step: int
    tasks: list[str] = field(default_factory=lambda: [])
    sealed: bool = False
    #: How many it held when it was sealed; `trim` forgets its tasks later.
    size: int = 0
    #: The advance after its own was done: its bytes may be freed.
    old: bool = False
    digest: str = ""
    #: When it was sealed, on the run's clock.
    sealed_ms: int = 0


@dataclass(slots=True)
class Wait:
    """A batch that cannot be filled or sealed without tasks that are running.

    Attributes:
        step: of the batch.
        since_ms: when the wait began.
        version: it is for running tasks with samples of this version, or older.
        first: the newest task that had started when the wait began.
    """

    step: int
    since_ms: int
    version: int
    first: int


@dataclass(slots=True)
class Session:
    """One connected worker."""

    id: str
    worker: str
    lease_ms: int
    deadline_ms: int
    number: int = 0
    random: str = ""
    answer: Answer | None = None


@dataclass(slots=True)
class Run:
    """Everything that the broker keeps of a run."""

    config: Config
    epoch_number: int
    token: str
    #: Whether somebody gave max_concurrent_rollouts; else it is the batch size, or without a bound beside
    #: max_concurrent_samples.
    concurrency_given: bool = True
    version: int = 0
    step_next: int = 0
    #: The run's clock, and how far it is ahead of the server's.
    clock_ms: int = 0
    offset_ms: int = 0
    #: What leases and time-outs of attempts are due on.
    lease_clock_ms: int = 0
    paused: str = ""
    cursor: str = ""
    #: Whether more tasks will come; `interrupted`: a feeder had more, and its trainer is gone.
    supply: Literal["", "more", "done", "interrupted"] = ""
    #: Somebody has said that the run is over.
    is_over: bool = False
    old_tokens: list[str] = field(default_factory=lambda: [])
    call_number: int = 0
    call_answer: Answer | None = None
    requests: dict[str, Answer] = field(default_factory=lambda: {})
    policies: dict[int, str] = field(default_factory=lambda: {})
    blob: bytes = b""
    tasks: dict[str, Task] = field(default_factory=lambda: {})
    batches: dict[int, Batch] = field(default_factory=lambda: {})
    sessions: dict[str, Session] = field(default_factory=lambda: {})
    #: The bytes of results that the broker keeps, by attempt id.
    results: dict[str, bytes] = field(default_factory=lambda: {})
    #: How long accepted attempts were held: bucket -> how many; bucket b is for 2^(b/2) to 2^((b+1)/2) ms.
    times: dict[int, int] = field(default_factory=dict[int, int])
    #: How long attempts generated, in ms and in number: docs/protocol.md, Lengths.
    lengths: dict[str, int] = field(default_factory=dict[str, int])
    orders: int = 0
    #: Ids of finished tasks whose records were freed, and whether they ended dead or rejected.
    finished: dict[str, bool] = field(default_factory=dict[str, bool])
    #: Of tasks numbered below it, and of what steps below the version consumed, the server may know nothing: it came
    #: back from a checkpoint of that order and version.
    known_from: int = 0
    known_version: int = 0
    #: The token of the epoch that gave each order number, the first one first.
    given: tuple[str, ...] = ()
    firsts: int = 0
    #: Steps below it need not be recoverable any more.
    floor: int = 0
    #: The version that a recovery goes to, while it is under way.
    recovering: int | None = None
    #: Below it the server's steps are consumed by the history that survives.
    recover_limit: int = 0
    listed_order: int = -1
    #: Up to this number the checkpoint's list decides; -1: it has none.
    common: int = -1
    #: The checkpoint has numbers that the server lost; and whether the data loader goes back to its cursor.
    lost: bool = False
    by_cursor: bool = False
    #: Which epochs gave the checkpoint's numbers.
    listed_given: tuple[str, ...] = ()
    in_flight: str = "keep"
    #: (epoch number, version) of each recovery.
    recoveries: list[tuple[int, int]] = field(default_factory=lambda: [])
    #: Versions of the checkpoints that are kept.
    committed: list[int] = field(default_factory=lambda: [])
    #: Those that operators wrote: nothing is kept for them.
    by_operators: list[int] = field(default_factory=lambda: [])
    joins: int = 0
    #: Tasks that a recovery named to be enqueued again, and that are not there yet.
    awaited: set[str] = field(default_factory=set[str])
    #: The last session that lost attempts of several tasks; it may expire in pieces.
    lost_several: str = ""
    totals: dict[str, int] = field(default_factory=lambda: {})
    breaker: Breaker = field(default_factory=Breaker)
    #: No change of config, and no server that forgot, has left more than the next batches can hold in time.
    is_feasible: bool = True
    #: The wait of the next batch, in the mode `wait`.
    wait: Wait | None = None
    #: Sessions whose last attempts failed.
    ailing: dict[str, Ailing] = field(default_factory=lambda: {})
    #: Sessions from which the last calls took an attempt: their heartbeats are woken.
    revoked: set[str] = field(default_factory=set[str])

    @property
    def epoch(self) -> str:
        """The fence: `<number>.<token>`."""
        return f"{self.epoch_number}.{self.token}"

    @property
    def clocks(self) -> tuple[int, int, int]:
        """The run's clock, its offset from the server's, the lease clock."""
        return (self.clock_ms, self.offset_ms, self.lease_clock_ms)

    @clocks.setter
    def clocks(self, clocks: tuple[int, int, int]) -> None:
        self.clock_ms, self.offset_ms, self.lease_clock_ms = clocks

    def tell_time(self, server_ms: int) -> None:
        """The server's clock is read: docs/protocol.md, Time."""
        now = server_ms + self.offset_ms
        if now < self.clock_ms:
            self.offset_ms += self.clock_ms - now
            now = self.clock_ms
        gap = now - self.clock_ms
        if self.sessions:
            gap = min(gap, max(1, min(session.lease_ms for session in self.sessions.values()) // 3))
        self.clock_ms, self.lease_clock_ms = now, self.lease_clock_ms + gap

    def count(self, total: str, by: int = 1) -> None:
        """Adds to a total."""
        self.totals[total] = self.totals.get(total, 0) + by

    def measure(self, name: str, by: int) -> None:
        """Adds to a sum of lengths."""
        self.lengths[name] = self.lengths.get(name, 0) + by

    # The sets and orders of the stored state, from the tasks alone.

    def pending(self) -> list[Task]:
        """Tasks that wait to be started, next first."""
        return sorted((t for t in self.tasks.values() if t.state == "pending"), key=lambda t: t.place)

    def open(self) -> list[Task]:
        """Running tasks with open slots, next first."""
        found = (t for t in self.tasks.values() if t.state == "running" and t.has("O"))
        return sorted(found, key=lambda t: t.place)

    def running(self) -> list[Task]:
        """Tasks in state running, by first claim."""
        return sorted((t for t in self.tasks.values() if t.state == "running"), key=lambda t: t.first)

    def ready(self) -> list[Task]:
        """Finished tasks, by first claim; in the mode `wait` by their oldest version before that."""
        return sorted((t for t in self.tasks.values() if t.state == "ready"), key=self._place_in_ready)

    def _place_in_ready(self, task: Task) -> tuple[int, int]:
        oldest = task.oldest if self.config.on_stale == "wait" else 0
        return (oldest or 0, task.first)

    def delayed(self) -> list[tuple[int, str]]:
        """(due, task), next first: ties in the order of the names."""
        return sorted((t.due_ms, t.id) for t in self.tasks.values() if t.state == "delayed")

    def retries(self) -> list[tuple[int, str]]:
        """(due, `<task>#<slot>`) of the slots of running tasks that wait for their backoff, next first."""
        return sorted(
            (slot.due_ms, f"{task.id}#{index}")
            for task in self.tasks.values()
            if task.state == "running"
            for index, slot in enumerate(task.slots)
            if slot.letter == "W"
        )

    def deadlines(self) -> list[tuple[int, str]]:
        """(hard deadline, attempt id) of held attempts that have one."""
        return sorted(
            (slot.deadline_ms, task.attempt_id(index))
            for task in self.tasks.values()
            for index, slot in enumerate(task.slots)
            if slot.letter == "H" and slot.deadline_ms
        )

    def held(self, session: str) -> list[tuple[int, str, Task, int]]:
        """(version, attempt id, task, slot) of what a session holds."""
        found = [
            (slot.policy[0], task.attempt_id(index), task, index)
            for task in self.tasks.values()
            for index, slot in enumerate(task.slots)
            if slot.letter == "H" and slot.session == session
        ]
        return sorted(found, key=lambda each: each[:2])

    def unsealed_batch(self) -> Batch:
        """The batch of `step_next`; an empty one that is not stored where none is being filled."""
        return self.batches.get(self.step_next) or Batch(self.step_next)

    def accepted_count(self) -> int:
        """I2 of docs/protocol.md, Capacity."""
        size = self.config.batch
        sealed = sum(max(size, b.size) for b in self.batches.values() if b.sealed and b.step >= self.version)
        return self.version * size + len(self.ready()) + len(self.unsealed_batch().tasks) + sealed

    def held_count(self) -> int:
        """I3 of docs/protocol.md, Capacity."""
        return sum(task.count("H") for task in self.tasks.values())

    def free_samples(self) -> int | None:
        """How many more slots may be held; None: there is no bound."""
        most = self.config.max_concurrent_samples
        return None if most is None else most - self.held_count()

    def capacity(self) -> int:
        """How many tasks may be started now; may be negative."""
        running = len(self.running())
        free = self.config.concurrent - running
        samples = self.free_samples()
        if samples is not None:
            free = min(free, samples)
        if self.config.max_staleness is None:
            return free
        budget = (self.config.max_staleness + self.version + 1) * self.config.batch
        return min(free, budget - (self.accepted_count() + running))

    # The rule of the mode `wait`: waiting.py.

    def due(self, size: int) -> Due:
        """What the rule looks at, with so many rollouts in the unsealed batch."""
        assert self.config.limit is not None
        oldest = tuple(t.oldest or 0 for t in self.tasks.values() if t.state in ("running", "ready"))
        return Due(self.step_next, self.version, self.config.batch, self.config.limit, size, oldest)

    def may_start(self, version: int) -> bool:
        """Whether a task that is started with this version finds a place in a batch, also if it ends last."""
        return not self.config.waits or room(self.due(len(self.unsealed_batch().tasks)), version) > 0

    def fits(self, task: Task) -> bool:
        """Whether a rollout of a lost batch finds a place in the steps that are left for it."""
        return not self.config.waits or fits(self.due(0), task.oldest or 0)

    def bound(self) -> int | None:
        """The newest version that the unsealed batch may take now; None: any."""
        return bound(self.due(len(self.unsealed_batch().tasks))) if self.config.waits else None

    def unsealable(self) -> int | None:
        """The version up to which tasks keep the unsealed batch from being sealed; None: it may be sealed."""
        return unsealable(self.due(len(self.unsealed_batch().tasks))) if self.config.waits else None

    def too_old(self, version: int | None) -> bool:
        """Whether a rollout of this version could not be trained by the next step any more."""
        limit = self.config.limit
        if version is None or self.config.on_stale == "keep" or limit is None:
            return False
        return self.step_next - version > limit

    def unsealed(self, task: Task) -> bool:
        """Whether it is in a batch that may still change: the open one, or one that a recovery undoes."""
        limit = self.step_next if self.recovering is None else self.recover_limit
        return task.state == "batched" and task.step is not None and task.step >= limit

    def surviving(self, policy: Policy) -> bool:
        """Whether the policy is on the surviving history."""
        return policy[0] <= self.version and self.policies.get(policy[0]) == policy[1]

    def visible_state(self, task: Task) -> str:
        """The state in the words of answers: a batched task is sealed with its batch, and consumed by the advance."""
        if task.state == "batched" and task.step is not None:
            if task.step < self.version:
                return "consumed"
            return "sealed" if task.step < self.step_next else "batched"
        return task.state
