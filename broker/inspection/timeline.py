"""What happened in a run lately, by its event log: how many results a second, each step, each worker, what is held.

Every view of a run that moves is made from a `Timeline` and a look at the counters (`broker.inspection.stats`).
"""

from __future__ import annotations

from collections import Counter, OrderedDict, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Final

from broker.inspection.events import Event, Follower
from broker.protocol.ids import attempt_id_or_none

#: How far back the counts by second go, and how many steps, results, recoveries and transitions are kept.
SECONDS_KEPT: Final = 900
STEPS_KEPT: Final = 200
TIMES_KEPT: Final = 1000
RECOVERIES_KEPT: Final = 20
TRANSITIONS_KEPT: Final = 200
#: Why attempts end that failed; the others were not needed any more.
_FAILURES: Final = frozenset({"failed", "fault", "expired"})
#: Workers that left are forgotten first when there are more than this many.
WORKERS_KEPT: Final = 5000


@dataclass(slots=True)
class Second:
    """What happened in one second of the server's clock.

    Attributes:
        at_s: the second.
        accepted: accepted results.
        trained: tasks that were trained on.
        failed: attempts that failed, had a fault of their worker, or expired.
        late: results that were refused.
    """

    at_s: int
    accepted: int = 0
    trained: int = 0
    failed: int = 0
    late: int = 0


@dataclass(slots=True)
class Step:
    """One step of the trainer.

    Attributes:
        step: its number.
        first_ms: when the first rollout joined its batch; 0: not known.
        sealed_ms: when the batch was sealed; 0: not yet.
        trained_ms: when the trainer advanced past it; 0: not yet.
        size: rollouts in the batch.
        staleness: rollouts by how many versions they were behind.
        last_task: the rollout that joined last, for which the batch waited.
        last_worker: the session that handed in the last result of this task; empty: not known.
        last_took_s: how long that session held it, in seconds; 0: not known.
        widest_gap_s: the longest time between two rollouts that joined, in seconds.
    """

    step: int
    first_ms: int = 0
    sealed_ms: int = 0
    trained_ms: int = 0
    size: int = 0
    staleness: Counter[int] = field(default_factory=Counter[int])
    last_task: str = ""
    last_worker: str = ""
    last_took_s: float = 0.0
    widest_gap_s: float = 0.0
    _last_ms: int = 0

    def join(self, task: str, oldest: int, at_ms: int, session: str, took_s: float) -> None:
        """A rollout joins the batch."""
        self.first_ms = self.first_ms or at_ms
        if self._last_ms:
            self.widest_gap_s = max(self.widest_gap_s, (at_ms - self._last_ms) / 1000)
        self._last_ms = at_ms
        self.size += 1
        self.staleness[self.step - oldest] += 1
        self.last_task, self.last_worker, self.last_took_s = task, session, took_s


@dataclass(slots=True)
class WorkerSeen:
    """What the log tells of one session of a worker.

    Attributes:
        session: its id.
        done: accepted results.
        failed: attempts that failed, had a fault of their worker, or expired.
        has_left: the session has ended.
    """

    session: str
    done: int = 0
    failed: int = 0
    has_left: bool = False


@dataclass(frozen=True, slots=True)
class Held:
    """An attempt that holds a slot.

    Attributes:
        attempt: its id.
        task: the task.
        session: who holds it.
        version: the version that it was claimed with.
        since_ms: when it was claimed.
    """

    attempt: str
    task: str
    session: str
    version: int
    since_ms: int


@dataclass(slots=True)
class RecoverySeen:
    """A recovery.

    Attributes:
        began_ms: when it began.
        to: the version that it went back to.
        epoch: of the trainer that did it.
        ended_ms: when the run went on; 0: not yet.
        put_back: tasks that it put back to waiting.
        ended: attempts that it took from workers.
    """

    began_ms: int
    to: int
    epoch: str
    ended_ms: int = 0
    put_back: int = 0
    ended: int = 0


@dataclass(frozen=True, slots=True)
class Transition:
    """One transition of the log: the event's id, its place in the event, when, its kind, its words."""

    id: str
    place: int
    at_ms: int
    kind: str
    words: str


class Timeline:
    """Follows the events of one run, in bounded memory.

    Attributes:
        seconds: counts by second, oldest first; a second without an event is missing.
        steps: the last steps, by number.
        workers: sessions by id, the one heard of last at the end.
        held: attempts that hold a slot, by id, the oldest first.
        times_s: how long the last accepted attempts were held, in seconds.
        ended: attempts that ended without a result, by reason, as far as the log goes.
        recoveries: the last recoveries.
        transitions: the last transitions, the newest at the end.
        has_gap: events are missing: what is held, and the counts, may be incomplete.
    """

    def __init__(self) -> None:
        self.seconds: deque[Second] = deque(maxlen=SECONDS_KEPT)
        self.steps: OrderedDict[int, Step] = OrderedDict()
        self.workers: OrderedDict[str, WorkerSeen] = OrderedDict()
        self.held: dict[str, Held] = {}
        self.times_s: deque[float] = deque(maxlen=TIMES_KEPT)
        self.ended: Counter[str] = Counter()
        self.recoveries: deque[RecoverySeen] = deque(maxlen=RECOVERIES_KEPT)
        # Not as objects: of a long log that is read for the first time, all but the last are dropped again.
        self._transitions: deque[tuple[str, int, int, str, str]] = deque(maxlen=TRANSITIONS_KEPT)
        self.has_gap = False
        #: Per task that is ready: who handed in its last result, and how long it took.
        self._made_by: dict[str, tuple[str, float]] = {}
        self._at_ms = 0
        self._rules: dict[str, Callable[..., None]] = {
            "claim": self._claimed,
            "done": self._done,
            "ended": self._ended,
            "late": self._late,
            "requeue": self._requeued,
            "batch": self._batched,
            "seal": self._sealed,
            "advance": self._advanced,
            "leave": self._left,
            "recover": self._recover,
            "recovered": self._recovered,
            "dead": self._given_up,
            "rejected": self._given_up,
        }

    def feed(self, event: Event) -> None:
        """Takes the next event. Ignores kinds and words that this release does not know."""
        at_ms = self._at_ms = event.at_ms
        for place, (kind, words) in enumerate(event.transitions):
            self._transitions.append((event.id, place, at_ms, kind, words))
            rule = self._rules.get(kind)
            if rule is not None:
                try:
                    rule(*words.split())
                except (TypeError, ValueError):
                    continue

    def read(self, follower: Follower, most_pages: int | None = None) -> None:
        """Takes the events since the last call.

        Args:
            follower: reads the log.
            most_pages: what comes after so many pages is passed over, which is a gap; None: all are read.
        """
        for number, page in enumerate(follower.pages(), 1):
            if page.has_gap:
                self.forget()
            for event in page.events:
                self.feed(event)
            if number == most_pages:
                follower.pass_over()
                self.forget()
                return

    def forget(self) -> None:
        """Notes a gap in the log: what is held is not known any more."""
        self.has_gap = True
        self.held.clear()
        self._made_by.clear()

    @property
    def transitions(self) -> list[Transition]:
        """The last transitions, the newest last."""
        return [Transition(*told) for told in self._transitions]

    def per_second(self, until_ms: int, seconds: int) -> list[Second]:
        """The counts of the last seconds, oldest first, seconds without an event as zeros."""
        last = until_ms // 1000
        known = {second.at_s: second for second in self.seconds}
        return [known.get(at, Second(at)) for at in range(last - seconds + 1, last + 1)]

    def staleness(self) -> Counter[int]:
        """The rollouts of the steps that are kept, by how many versions they were behind."""
        return sum((step.staleness for step in self.steps.values()), Counter[int]())

    def held_longest(self, count: int) -> list[Held]:
        """The attempts that have been held for the longest time."""
        return sorted(self.held.values(), key=lambda held: held.since_ms)[:count]

    def _now(self) -> Second:
        at = self._at_ms // 1000
        if not self.seconds or self.seconds[-1].at_s < at:
            self.seconds.append(Second(at))
        return self.seconds[-1]

    def _worker(self, session: str) -> WorkerSeen:
        seen = self.workers.get(session) or WorkerSeen(session)
        self.workers[session] = seen
        self.workers.move_to_end(session)
        if len(self.workers) > WORKERS_KEPT:
            gone = next((name for name, worker in self.workers.items() if worker.has_left), next(iter(self.workers)))
            del self.workers[gone]
        return seen

    def _step(self, number: int) -> Step:
        found = self.steps.get(number)
        if found is None:
            found = self.steps[number] = Step(number)
            if len(self.steps) > STEPS_KEPT:
                self.steps.popitem(last=False)
        return found

    def _claimed(self, attempt: str, version: str, _epoch: str, session: str) -> None:
        of = attempt_id_or_none(attempt)
        if of is not None:
            self.held[attempt] = Held(attempt, of.task, session, int(version), self._at_ms)
            self._worker(session)

    def _done(self, attempt: str, *_newest: str) -> None:
        self._now().accepted += 1
        held = self.held.pop(attempt, None)
        if held is None:
            return
        took_s = (self._at_ms - held.since_ms) / 1000
        self.times_s.append(took_s)
        self._worker(held.session).done += 1
        self._made_by[held.task] = held.session, took_s

    def _ended(self, attempt: str, *why: str) -> None:
        self.ended[why[0] if why else ""] += 1
        held = self.held.pop(attempt, None)
        if self.recoveries and not self.recoveries[-1].ended_ms:
            self.recoveries[-1].ended += 1
            return
        if why and why[0] in _FAILURES:
            self._now().failed += 1
            if held is not None:
                self._worker(held.session).failed += 1

    def _late(self, *_words: str) -> None:
        self._now().late += 1

    def _requeued(self, task: str, *_why: str) -> None:
        self._made_by.pop(task, None)
        if self.recoveries and not self.recoveries[-1].ended_ms:
            self.recoveries[-1].put_back += 1

    def _given_up(self, task: str, *_why: str) -> None:
        self._made_by.pop(task, None)

    def _batched(self, task: str, step: str, oldest: str) -> None:
        session, took_s = self._made_by.pop(task, ("", 0.0))
        self._step(int(step)).join(task, int(oldest), self._at_ms, session, took_s)

    def _sealed(self, step: str, size: str, *_digest: str) -> None:
        of = self._step(int(step))
        of.sealed_ms, of.size = self._at_ms, int(size)

    def _advanced(self, version: str, *_epoch: str) -> None:
        of = self._step(int(version) - 1)
        of.trained_ms = self._at_ms
        self._now().trained += of.size

    def _left(self, session: str, *_why: str) -> None:
        if session in self.workers:
            self._worker(session).has_left = True

    def _recover(self, version: str, epoch: str) -> None:
        self.recoveries.append(RecoverySeen(self._at_ms, int(version), epoch))
        for step in [number for number in self.steps if number >= int(version)]:
            del self.steps[step]

    def _recovered(self, *_words: str) -> None:
        if self.recoveries:
            self.recoveries[-1].ended_ms = self._at_ms


def histogram(values: Sequence[float], most: int = 24) -> list[tuple[float, float, int]]:
    """Values above 0 in at most `most` classes of equal ratio: (from, to, number), the smallest first."""
    found = sorted(value for value in values if value > 0)
    if not found:
        return []
    low, high = found[0], found[-1]
    if high <= low * 1.001:
        return [(low, high, len(found))]
    ratio = (high / low) ** (1 / most)
    edges = [low * ratio**i for i in range(most)] + [high]
    numbers = [0] * most
    at = 0
    for value in found:
        while at < most - 1 and value >= edges[at + 1]:
            at += 1
        numbers[at] += 1
    return [(edges[i], edges[i + 1], numbers[i]) for i in range(most)]
