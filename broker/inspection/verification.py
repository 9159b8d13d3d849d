"""Replays the event log of a run against the guarantees, and compares its end with the state in the server.

The run may be busy meanwhile. Data to be compared are read at one moment: the newest event is asked for before
and after them in the same round trip. The log is replayed up to exactly that event.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final, Protocol

from broker.errors import BrokerError
from broker.errors.words import count
from broker.inspection import events
from broker.inspection.judge import Breach, Judge, State, Task, Totals
from broker.inspection.stats import Stats, stats_of
from broker.protocol import anyone, keys
from broker.protocol.script_call import ScriptCall
from broker.protocol.task_record import TaskRecord, task_record
from broker.values.config import RunConfig

#: Tasks whose records are read in one round trip.
_PIECE: Final = 500
#: How many round trips look for a moment without a new event. The first is nearly always enough.
_MOST_LOOKS: Final = 200
#: How often the log is read from its beginning because the config was changed meanwhile.
_MOST_READS: Final = 3

_WAITING: Final = ("pending", "delayed")
_SETS: Final = (*_WAITING, "ready", "dead", "rejected")
_COUNTERS: Final = ("version", "step_next", "accepted", "running", "open_size")
_TOTALS: Final = ("total_enqueued", "total_results", "total_consumed")
_FIELDS: Final = (*_COUNTERS, *_TOTALS, "epoch", "recovering", "known_from", *RunConfig.model_fields)

#: By a task's state in the log, its possible states in the server. `pending` includes delayed; `none`: no record.
_MAY_BE: Final[dict[State, tuple[str, ...]]] = {
    "pending": ("pending",),
    "running": ("running",),
    "ready": ("ready",),
    "batched": ("batched",),
    "sealed": ("batched",),
    "consumed": ("batched", "none"),
    "dead": ("dead",),
    "rejected": ("rejected",),
    "lost": ("batched", "ready", "pending", "none"),
    "unknown": ("pending", "running", "ready", "batched", "dead", "rejected", "none"),
}
_STATE_OF: Final = {
    "P": "pending", "D": "pending", "R": "running", "Y": "ready", "B": "batched", "X": "dead", "J": "rejected"
}  # fmt: skip


class Sender(Protocol):
    """Sends calls and commands, as a transport does."""

    def execute(self, calls: Sequence[ScriptCall[Any]]) -> list[Any]:
        """The values of script calls, or their errors."""
        ...

    def command(self, *args: str | bytes | int) -> Any:
        """The reply to one plain command."""
        ...

    def pipeline(self, commands: Sequence[Sequence[str | bytes | int]]) -> list[Any]:
        """The replies to plain commands, sent in one round trip."""
        ...


@dataclass(frozen=True, slots=True)
class Verification:
    """The result of verifying a run's log.

    Args:
        run: the run.
        transitions: how many were replayed.
        from_ms: the time of the first transition, milliseconds of the server's clock; 0: the log has none.
        to_ms: the time of the last transition.
        is_whole: whether the log begins with the run, and has no gap.
        tally: counts of the log's events.
        tasks_compared: tasks whose records in the server were compared with the log.
        breaches: the first breaches of each rule; also counters and tasks that contradict the log.
        broken: how often each rule was broken.
        doubts: breaches by the present config, which an earlier config may have allowed.
        unseen: what could not be seen or compared, a sentence each.
    """

    run: str
    transitions: int
    from_ms: int
    to_ms: int
    is_whole: bool
    tally: Totals
    tasks_compared: int
    breaches: list[Breach]
    broken: dict[str, int]
    doubts: list[Breach]
    unseen: list[str]

    @property
    def ok(self) -> bool:
        """Whether nothing broke a guarantee."""
        return not self.breaches


def verify(
    sender: Sender, run: str, *, keeps_config: bool = False, progress: Callable[[int], None] | None = None
) -> Verification:
    """Replays the log of a run up to now; changes nothing.

    Args:
        sender: sends the calls.
        run: its name, checked.
        keeps_config: the config was never changed, so that events before the trainer's last opening are judged by it
            too.
        progress: called with the number of transitions read so far.

    Raises:
        NoRun, SchemaMismatch: as every call.
    """
    looks = 1
    while True:
        replay = Replay(sender, run, keeps_config=keeps_config, progress=progress)
        replay.compare()
        if not replay.has_changed or looks == _MOST_READS:
            return replay.verification()
        looks += 1


def _value(outcome: Any) -> Any:
    if isinstance(outcome, BrokerError):
        raise outcome
    return outcome


class Replay:
    """One replay of the log.

    Attributes:
        judge: the judge of its events.
        has_changed: whether the config or the history of the server was changed after the replay had begun.
    """

    def __init__(self, sender: Sender, run: str, *, keeps_config: bool, progress: Callable[[int], None] | None) -> None:
        self._sender, self._run, self._progress = sender, run, progress
        self._keeps_config = keeps_config
        stored = _value(sender.execute([anyone.stats(run)])[0])
        self._stats: Stats = stats_of(run, stored)
        self._has_rewound = "known_from" in stored
        self._follower = events.Follower(sender.command, run)
        self._transitions, self._from, self._to, self._begins, self._gaps = 0, "", "", False, 0
        self._compared, self._without_record = 0, 0
        self._unseen: list[str] = []
        self.has_changed = False
        self.judge = self._judge(is_whole=False)

    def compare(self) -> None:
        """Replays the whole log, and compares its end with the server."""
        self._replay()
        self._look_at_counters()
        self._look_at_tasks()
        self._audit()

    def verification(self) -> Verification:
        """The result."""
        judge = self.judge
        at = [events.place(event)[0] if event else 0 for event in (self._from, self._to)]
        return Verification(
            self._run, self._transitions, at[0], at[1], judge.is_whole, judge.totals, self._compared, judge.breaches,
            dict(judge.broken), judge.doubts, [*self._not_in_the_log(), *self._unseen]
        )  # fmt: skip

    # -- the log ---------------------------------------------------------------------------------------------------

    def _judge(self, *, is_whole: bool) -> Judge:
        return Judge(
            self._stats.config, keeps_config=self._keeps_config, is_whole=is_whole, has_rewound=self._has_rewound
        )

    def _replay(self, until: str = "+") -> None:
        for page in self._follower.pages(until):
            if page.has_gap:
                self._gaps += 1
                self.judge.forget()
            for event in page.events:
                if not self._from:
                    self._from, self._begins = event.id, _begins_a_run(event)
                    self.judge = self._judge(is_whole=self._begins)
                for kind, words in event.transitions:
                    self.judge.feed(kind, words.split(), event.id)
                self._transitions += len(event.transitions)
            self._to = page.events[-1].id
            if self._progress is not None:
                self._progress(self._transitions)

    def _at_one_moment(self, commands: Sequence[Sequence[str | bytes | int]]) -> list[Any] | None:
        """The replies to commands at one moment, with the log replayed up to it; None: no such moment was found."""
        newest = events.ask_newest(self._run)
        for _ in range(_MOST_LOOKS):
            before, *replies, after = self._sender.pipeline([newest, *commands, newest])
            if events.id_of_newest(before) == events.id_of_newest(after):
                self._replay(events.id_of_newest(after))
                return replies
        self._unseen.append("the run was too busy for a look at one moment: not everything was compared")
        return None

    # -- the server ------------------------------------------------------------------------------------------------

    def _audit(self) -> None:
        """Compares the counters with the sets in the server, independently of the log."""
        before, drift, after = map(_value, self._sender.execute([
            anyone.stats(self._run), anyone.audit(self._run), anyone.stats(self._run)
        ]))  # fmt: skip
        # A recovery moves tasks first, and rewrites the counters with its last call.
        if before.get("recovering") or after.get("recovering") or before["epoch"] != after["epoch"]:
            return
        for name, (stored, found) in drift.items():
            if stored != found:
                self._against("counters", f"{name} is stored as {stored}, the sets in the server come to {found}")

    def _look_at_counters(self) -> None:
        key = keys.key
        replies = self._at_one_moment([
            ("HMGET", keys.state(self._run), *_FIELDS),
            ("HLEN", key(self._run, "tasks")),
            *(("ZCARD", key(self._run, name)) for name in _SETS),
        ])  # fmt: skip
        if replies is None:
            return
        values, n_tasks, *sizes = replies
        stored = {name: value.decode() for name, value in zip(_FIELDS, values, strict=True) if value is not None}
        config = RunConfig.from_fields(stored).model_dump()
        self.has_changed = config != self._stats.config.model_dump() or ("known_from" in stored) != self._has_rewound
        if stored.get("recovering") or self.judge.is_recovering:
            self._unseen.append("a recovery is under way: the counters and tasks are not compared before it has ended")
            return
        sets = dict(zip(_SETS, sizes, strict=True))
        for name, low, high in self._bounds():
            held = {
                "pending": sum(sets[name] for name in _WAITING),
                "tasks": n_tasks,
                **{name: sets[name] for name in ("ready", "dead", "rejected")},
                **{name: int(stored.get(name) or 0) for name in (*_COUNTERS, *_TOTALS)},
            }[name]
            if held < low or (high is not None and held > high):
                expected = f"{low}" if low == high else f"at least {low}" if high is None else f"{low} to {high}"
                self._against("counters", f"{name} is {held} in the server, the log comes to {expected}")
        if self.judge.epoch not in ("", stored["epoch"]):
            self._against("counters", f"the epoch is {stored['epoch']}, the log's last one {self.judge.epoch}")

    def _bounds(self) -> Iterator[tuple[str, int, int | None]]:
        """For each number, the least and the most by the log; None: the log does not say."""
        judge, counts = self.judge, Counter[State](task.state for task in self.judge.tasks.values())
        low, high = Counter[str](), Counter[str]()
        for task in judge.tasks.values():
            may_be = _may_be(task)
            low.update(may_be if len(may_be) == 1 else ())
            high.update(may_be)
        for name in ("pending", "running", "ready", "dead", "rejected"):
            yield name, low[name], high[name] if judge.is_whole else None
        n_tasks = len(judge.tasks)
        yield "tasks", n_tasks - high["none"], n_tasks if judge.is_whole else None
        is_exact = judge.is_whole and not counts["unknown"]
        yield "open_size", counts["batched"], counts["batched"] if is_exact else None
        if judge.version is not None:
            yield "version", judge.version, judge.version
            yield "accepted", judge.accepted, judge.accepted if is_exact else None
        if judge.step_next is not None:
            yield "step_next", judge.step_next, judge.step_next
        if judge.is_whole:
            yield "total_enqueued", judge.totals.enqueued, judge.totals.enqueued
            yield "total_results", judge.totals.accepted, judge.totals.accepted
        if is_exact and judge.counts_consumed and not self._has_rewound:
            yield "total_consumed", judge.totals.consumed, judge.totals.consumed

    def _look_at_tasks(self) -> None:
        names = [name for name, task in self.judge.tasks.items() if task.state != "unknown"]
        for at in range(0, len(names), _PIECE):
            piece = names[at : at + _PIECE]
            replies = self._at_one_moment([("HMGET", keys.key(self._run, "tasks"), *piece)])
            if replies is None or self.judge.is_recovering:
                return
            for name, raw in zip(piece, replies[0], strict=True):
                task = self.judge.tasks.get(name)
                if task is not None and task.state != "unknown":
                    self._look_at_task(name, task, None if raw is None else task_record(raw))

    def _look_at_task(self, name: str, task: Task, record: TaskRecord | None) -> None:
        self._compared += 1
        self._without_record += record is None and task.state == "consumed"
        held = "none" if record is None else _STATE_OF[record.state]
        if held not in _may_be(task):
            is_held = "has no record of it" if record is None else f"holds it as {held}"
            self._against("states", f"task {name} is {task.state} by the log, the server {is_held}")
        elif record is not None and task.state in ("batched", "sealed", "consumed") and record.step != task.step:
            self._against("states", f"task {name} is of step {task.step} by the log, of {record.step} in the server")
        elif record is not None and task.is_whole and held in ("running", "ready", "batched"):
            for letter, slots, what in (("D", task.done, "accepted"), ("H", task.held, "held")):
                found = {slot for slot, has in enumerate(record.letters) if has == letter}
                if found != slots.keys():
                    by_log, by_server = (sorted(of) or "none" for of in (slots, found))
                    self._against("states", f"slots of {name} {what} by the log: {by_log}, in the server: {by_server}")

    def _against(self, rule: str, text: str) -> None:
        self.judge.against(rule, text)

    # -- what could not be seen --------------------------------------------------------------------------------------

    def _not_in_the_log(self) -> Iterator[str]:
        judge, config = self.judge, self._stats.config
        if not self._transitions:
            yield "the log is empty: no transition was judged"
        elif not self._begins:
            yield (
                f"the log does not begin with the run: older events were trimmed (events_maxlen is "
                f"{config.events_maxlen}); tasks that began before are judged from their first event in the log on"
            )
        if self.has_changed:
            yield "the config was changed again and again while the log was read: G4 and G5 are judged by one of them"
        if self._gaps:
            yield f"events were trimmed {count(self._gaps, 'time')} before they could be read: raise events_maxlen"
        yield from dict.fromkeys(judge.notes)
        unknown = len(judge.in_state("unknown"))
        if unknown:
            yield f"the log does not say where {count(unknown, 'task is', 'tasks are')}: not compared with the server"
        if judge.totals.recoveries:
            yield "what a recovery did to dead and rejected tasks is in no event: they may be waiting again"
        if judge.doubts:
            yield (
                f"{count(len(judge.doubts), 'breach', 'breaches')} of G4 or G5 by the config as it is now: from before "
                "the trainer last opened the run, when it may have been another one; --same-config counts them"
            )
        if config.on_stale == "keep":
            yield "on_stale is keep: the run asks for no check of staleness"
        if self._without_record:
            freed = count(self._without_record, "consumed task is", "consumed tasks are")
            yield f"{freed} freed: the server has no record to compare"


def _begins_a_run(event: events.Event) -> bool:
    """Whether an event begins a run: its first trainer opens it, or a recovery makes it of a checkpoint alone."""
    (kind, words), *others = event.transitions
    return kind == "open" and (words.startswith("1.") or (bool(others) and others[0][0] == "recover"))


def _may_be(task: Task) -> tuple[str, ...]:
    return (*_MAY_BE[task.state], "pending") if task.may_wait else _MAY_BE[task.state]
