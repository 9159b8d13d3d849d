"""Judges a run by its event log alone: replays each transition and checks it against the broker's guarantees.

The judge does not know the counters in the server (`broker.inspection.verification` compares them). It checks that

- a slot is handed out to one attempt at a time, and accepts at most one result, from the attempt that holds it;
- a batch holds rollouts only, each once, and is as large as its seal says; no task is trained on twice;
- versions advance one by one, each by the batch of its step;
- no rollout in a batch is staler than the bound, by the versions that its attempts were claimed with;
- no task is started while the capacity formula, computed from the log, gives none;
- a recovery puts every task of an undone step back, and no sample of an undone policy is trained on.

The log has gaps if it was trimmed, or if a recovery moved tasks without an event. Then the judge takes the next event
of a task as its state, and counts only tasks whose state it knows: it may miss a breach, but it invents none.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Final, Literal

from broker.errors.words import count
from broker.inspection.capacity import terms
from broker.protocol.ids import attempt_id
from broker.values.config import RunConfig

#: States of a task. `sealed`: its batch is. `consumed`: its step is done. `lost`: in a batch that a recovery undid,
#: and not put back yet. `unknown`: the log does not say.
State = Literal["pending", "running", "ready", "batched", "sealed", "consumed", "dead", "rejected", "lost", "unknown"]

#: The guarantee (docs/protocol.md) that each rule belongs to.
GUARANTEES: Final = {
    "enqueue": "G1",
    "state": "G1",
    "batch": "G1",
    "advance": "G1",
    "duplicate": "G2",
    "claim": "G3",
    "fencing": "G3",
    "ended": "G3",
    "admission": "G4",
    "staleness": "G5",
    "policy": "G6",
    "lost": "G6",
}

#: How many breaches of one rule are kept in words; more of the same add nothing.
_MOST_TOLD: Final = 20


@dataclass(frozen=True, slots=True)
class Breach:
    """One broken rule.

    Args:
        guarantee: the broken one, `G1` to `G6`; `log` if the log contradicts itself.
        rule: the rule's name.
        text: what happened, to what.
        event: the id of the event that broke the rule; empty if no event did.
    """

    guarantee: str
    rule: str
    text: str
    event: str = ""


@dataclass(frozen=True, slots=True)
class Sample:
    """An attempt that holds or filled a slot, and the policy that it was claimed with; version -1: unknown."""

    attempt: str
    version: int
    epoch: str
    session: str = ""


@dataclass(slots=True)
class Task:
    """A task, as the log describes it.

    Attributes:
        state: its state.
        is_whole: whether the log has all events of its slots since it last waited.
        may_wait: the task is dead or rejected, but a recovery may have put it back without an event.
        step: of its batch; -1: it is in no batch.
        staleness: of its oldest sample, when it was batched.
        held: the attempts that hold its slots, by slot.
        done: the accepted attempts since it last waited, by slot.
    """

    state: State
    is_whole: bool = True
    may_wait: bool = False
    step: int = -1
    staleness: int = 0
    held: dict[int, Sample] = field(default_factory=dict[int, Sample])
    done: dict[int, Sample] = field(default_factory=dict[int, Sample])


@dataclass(slots=True)
class Totals:
    """Counts of a run's events.

    Attributes:
        enqueued: tasks that were enqueued.
        started: starts of tasks.
        accepted: accepted results.
        consumed: tasks trained on in the history that survives.
        duplicates: tasks batched twice, and second accepted results of a slot.
        staleness: the number of trained tasks by how many versions they were behind; undone steps count too.
        requeued: slots that were handed out again.
        late: refused results, by answer.
        ended: attempts that ended without a result, by reason.
        recoveries: how often a trainer went back to a checkpoint.
        most_running: the most tasks that were running at one time.
        most_in_use: the most tasks that were started and not yet trained on at one time.
    """

    enqueued: int = 0
    started: int = 0
    accepted: int = 0
    consumed: int = 0
    duplicates: int = 0
    staleness: Counter[int] = field(default_factory=Counter[int])
    requeued: int = 0
    late: Counter[str] = field(default_factory=Counter[str])
    ended: Counter[str] = field(default_factory=Counter[str])
    recoveries: int = 0
    most_running: int = 0
    most_in_use: int = 0


class Judge:
    """Follows the events of one run.

    Args:
        config: the run's present config.
        keeps_config: the config was never changed. Otherwise only the events after the last `open` are judged by it for
            certain: a trainer may change the config as it opens the run, and the log does not say so.
        is_whole: the events begin with the run's beginning.
        has_rewound: the server lost writes at some time: a recovery then drops tasks without an event.

    Attributes:
        version: the newest of the surviving history; None: not known yet.
        step_next: the first step whose batch is not sealed; None: not known yet.
        epoch: of the last trainer that opened or recovered the run; empty: not known yet.
        tasks: by id.
        batches: the sealed batches of the surviving history, by step.
        breaches: the first breaches of each rule.
        broken: how often each rule was broken.
        doubts: breaches that an earlier config may have allowed.
        notes: events that limit what the log can show, a sentence each.
        counts_consumed: whether the log says how many tasks the lost steps of each recovery had trained on.
    """

    def __init__(
        self, config: RunConfig, *, keeps_config: bool = True, is_whole: bool = True, has_rewound: bool = False
    ) -> None:
        self.totals = Totals()
        self.version: int | None = 0 if is_whole else None
        self.step_next: int | None = 0 if is_whole else None
        self.epoch = ""
        self.is_whole, self.is_recovering = is_whole, False
        self.tasks: dict[str, Task] = {}
        self.batches: dict[int, list[str]] = {}
        self.breaches: list[Breach] = []
        self.broken: Counter[str] = Counter()
        self.doubts: list[Breach] = []
        self.notes: list[str] = []
        self.counts_consumed = True
        self._config, self._keeps_config, self._has_rewound = config, keeps_config, has_rewound
        self._by_config: Counter[str] = Counter()
        self._counts: Counter[State] = Counter()
        #: Tasks that joined the unsealed batch, and whether the log has them all.
        self._open: list[str] = []
        self._knows_open = is_whole
        self._attempts: set[str] = set()
        #: The epoch that made each version of the surviving history, if the log has it.
        self._policies: dict[int, str] = {}
        self._floor, self._has_committed = 0, False
        self._event = ""
        self._rules: dict[str, Callable[..., None]] = {
            "open": self._opened,
            "configure": self._configured,
            "enqueue": self._enqueued,
            "start": self._started,
            "claim": self._claimed,
            "done": self._accepted,
            "ended": self._ended,
            "late": self._late,
            "ready": self._readied,
            "requeue": self._requeued,
            "dead": partial(self._finished, "dead"),
            "rejected": partial(self._finished, "rejected"),
            "retry": self._retried,
            "freed": self._freed,
            "batch": self._batched,
            "seal": self._sealed,
            "advance": self._advanced,
            "commit": self._committed,
            "recover": self._recover,
            "recovered": self._recovered,
            "repair": self._repaired,
        }

    def feed(self, kind: str, words: Sequence[str], event: str = "") -> None:
        """Takes the next transition; ignores kinds that are not about the guarantees.

        Args:
            kind: of the transition.
            words: as the log has them.
            event: the id of its entry, for breaches.
        """
        rule = self._rules.get(kind)
        if rule is None:
            return
        self._event = event
        try:
            rule(*words)
        except (TypeError, ValueError):
            self._against("log", f"an event that makes no sense: {kind} {' '.join(words)}")

    def forget(self) -> None:
        """Notes a gap in the log: the state of each task is unknown until it appears again."""
        self.is_whole, self._knows_open = False, False
        self.version = self.step_next = None
        self.epoch = ""
        for known in (self.tasks, self.batches, self._counts, self._open, self._policies):
            known.clear()

    def against(self, rule: str, text: str, event: str = "", guarantee: str = "") -> None:
        """Records a breach.

        Args:
            rule: the rule's name.
            text: what happened, to what.
            event: the id of the event that broke the rule; empty if no event did.
            guarantee: the broken guarantee; empty: that of `GUARANTEES`, or the rule itself.
        """
        self.broken[rule] += 1
        if self.broken[rule] <= _MOST_TOLD:
            self.breaches.append(Breach(guarantee or GUARANTEES.get(rule, rule), rule, text, event))

    def in_state(self, *states: State) -> set[str]:
        """The tasks that are in one of these states."""
        return {name for name, task in self.tasks.items() if task.state in states}

    @property
    def capacity(self) -> int:
        """The most tasks that may be started, by the starts that the log has."""
        return terms(self._config, self.version or 0, self.accepted, self._counts["running"]).capacity

    @property
    def accepted(self) -> int:
        """The counter of that name, by the log; while the version is unknown, it counts from version 0."""
        size, version = self._config.batch_size, self.version or 0
        # Steps that are sealed and not trained yet, if their version and batch are known.
        steps = range(version, self.step_next or 0) if self.version is not None else ()
        formed = sum(max(size, len(self.batches[step])) for step in steps if step in self.batches)
        return version * size + self._counts["ready"] + self._counts["batched"] + formed

    # -- tasks -----------------------------------------------------------------------------------------------------

    def _enqueued(self, name: str) -> None:
        self.totals.enqueued += 1
        if name in self.tasks and self.tasks[name].state != "unknown":
            self._against("enqueue", f"task {name} was enqueued twice")
            return
        self.tasks[name] = Task("unknown")
        self._reset(name, "pending")

    def _started(self, name: str, _first: str) -> None:
        self._expect(name, "was started", "pending")
        if self.capacity <= 0:
            self._against_by_config("admission", f"task {name} was started at capacity {self.capacity}")
        self._reset(name, "running")
        self.totals.started += 1
        counts = self._counts
        in_use = counts["running"] + counts["ready"] + counts["batched"] + counts["sealed"]
        self.totals.most_running = max(self.totals.most_running, counts["running"])
        self.totals.most_in_use = max(self.totals.most_in_use, in_use)

    def _readied(self, name: str) -> None:
        self._expect(name, "became ready", "running", "lost")
        self._without_attempts(name, "became ready")
        self._put(name, "ready")

    def _requeued(self, name: str, _why: str) -> None:
        self._expect(name, "was requeued", "running", "ready", "batched", "lost")
        self._without_attempts(name, "went back to waiting")
        self._reset(name, "pending")

    def _finished(self, state: State, name: str, why: str) -> None:
        self._expect(name, f"was given up ({why})", "pending", "running", "ready", "batched", "lost")
        self._without_attempts(name, f"ended {state}")
        self._reset(name, state)

    def _retried(self, name: str) -> None:
        self._expect(name, "was tried again", "dead", "rejected")
        self._reset(name, "pending")

    def _freed(self, name: str, _state: str, _why: str) -> None:
        self._expect(name, "was freed", "dead", "rejected")
        self._put(name, "unknown")
        del self.tasks[name]

    # -- attempts --------------------------------------------------------------------------------------------------

    def _claimed(self, attempt: str, version: str, epoch: str, session: str) -> None:
        of = attempt_id(attempt)
        task = self._known(of.task)
        if task.state == "unknown":
            self._put(of.task, "running")
        elif of.slot in task.held or of.slot in task.done or task.state != "running":
            self._against("claim", f"{attempt} was handed out while {_situation(task, of.slot)}")
        if attempt in self._attempts:
            self._against("claim", f"{attempt} was handed out twice")
        if not self._survives(int(version), epoch):
            self._against("policy", f"{attempt} was handed out for {version} of epoch {epoch}, which was undone")
        if self.step_next is not None and self._config.is_too_old(int(version), self.step_next):
            self._against_by_config("staleness", f"{attempt} was handed out for version {version}, too old to be used")
        self._attempts.add(attempt)
        task.held[of.slot] = Sample(attempt, int(version), epoch, session)
        self.totals.requeued += of.claims > 1

    def _accepted(self, attempt: str, _newest: str) -> None:
        of = attempt_id(attempt)
        task = self._known(of.task)
        if task.state == "unknown":
            self._put(of.task, "running")
        self.totals.accepted += 1
        holder = task.held.get(of.slot)
        if of.slot in task.done:
            self.totals.duplicates += 1
            self._against("duplicate", f"slot {of.task}#{of.slot} has a second accepted result, by {attempt}")
        elif (holder is None and task.is_whole) or (holder is not None and holder.attempt != attempt):
            self._against("fencing", f"the result of {attempt} was accepted while {_situation(task, of.slot)}")
        task.held.pop(of.slot, None)
        task.done[of.slot] = holder or Sample(attempt, -1, "")

    def _ended(self, attempt: str, why: str) -> None:
        of = attempt_id(attempt)
        task = self._known(of.task)
        self.totals.ended[why] += 1
        holder = task.held.get(of.slot)
        if holder is None and not task.is_whole:
            return
        if holder is None or holder.attempt != attempt:
            self._against("ended", f"{attempt} ended ({why}) without holding its slot")
            return
        del task.held[of.slot]

    def _late(self, attempt: str, answer: str, _by: str) -> None:
        self.totals.late[answer] += 1
        of = attempt_id(attempt)
        task = self.tasks.get(of.task)
        holder = task.held.get(of.slot) if task else None
        if holder is not None and holder.attempt == attempt:
            self._against("fencing", f"{attempt} was refused ({answer}) though it holds its slot")

    # -- batches ---------------------------------------------------------------------------------------------------

    def _batched(self, name: str, step: str, oldest: str) -> None:
        task, at = self._known(name), int(step)
        if task.state in ("batched", "sealed", "consumed"):
            self.totals.duplicates += 1
            self._against("duplicate", f"task {name} of step {task.step} is in the batch of step {step} too", "G1")
            return
        self._expect(name, f"joined the batch of step {step}", "ready")
        if self.step_next not in (None, at):
            self._against("batch", f"task {name} joined the batch of step {step}, the next step is {self.step_next}")
        if task.is_whole and not task.done:
            self._against("fencing", f"task {name} joined the batch of step {step} without an accepted result")
        for slot, sample in task.done.items():
            if not self._survives(sample.version, sample.epoch):
                made = f"made by version {sample.version} of epoch {sample.epoch}, which was undone"
                self._against("policy", f"step {step} trains on {name}#{slot}, {made}")
        versions = [sample.version for sample in task.done.values() if sample.version >= 0]
        oldest_version = min([int(oldest), *versions])
        if self._config.is_too_old(oldest_version, at):
            text = (
                f"task {name} was {count(at - oldest_version, 'version')} old when it joined the batch of step {step}"
            )
            self._against_by_config("staleness", text)
        self._put(name, "batched")
        task.step, task.staleness = at, at - oldest_version
        self._open.append(name)

    def _sealed(self, step: str, size: str, _digest: str) -> None:
        at, names = int(step), [name for name in dict.fromkeys(self._open) if self._is_batched(name)]
        if self.step_next not in (None, at):
            self._against("batch", f"the batch of step {step} was sealed, the next step is {self.step_next}")
        if self._knows_open and len(names) != int(size):
            self._against(
                "batch",
                f"the batch of step {step} was sealed with {count(int(size), 'task')}, the log has {len(names)}",
            )
        self.batches[at], self._open, self._knows_open = names, [], True
        for name in names:
            self._put(name, "sealed")
        self.step_next = at + 1

    def _advanced(self, version: str, epoch: str) -> None:
        step = int(version) - 1
        if self.version not in (None, step):
            self._against("advance", f"version {version} came after version {self.version}")
        if self.epoch not in ("", epoch):
            self._against("advance", f"version {version} was made by epoch {epoch}, which {self.epoch} had replaced")
        for name in self.batches.get(step, ()):
            if self.tasks[name].state == "sealed":
                self._put(name, "consumed")
                self.totals.consumed += 1
                self.totals.staleness[self.tasks[name].staleness] += 1
        self.version = int(version)
        self.step_next = max(self.step_next or 0, self.version)
        self._policies[self.version] = epoch

    # -- trainers and recovery -------------------------------------------------------------------------------------

    def _opened(self, epoch: str) -> None:
        number, before = (int(of.partition(".")[0] or 0) for of in (epoch, self.epoch))
        if not self.epoch and self.is_whole:
            self._policies.setdefault(0, epoch)
        elif self.epoch and number > before + 1:
            self.notes.append(f"events were switched off between the epochs {self.epoch} and {epoch}")
            self.forget()
        self._configured()
        self.epoch = epoch

    def _configured(self, *_before: str) -> None:
        """The config may have been another one before: what it judged so far is in doubt."""
        if not self._keeps_config:
            self.doubts += [breach for breach in self.breaches if self._by_config[breach.rule]]
            self.breaches = [breach for breach in self.breaches if not self._by_config[breach.rule]]
            self.broken -= self._by_config
            self._by_config.clear()

    def _committed(self, _version: str, floor: str) -> None:
        self._floor, self._has_committed = int(floor), True

    def _recover(self, version: str, epoch: str) -> None:
        to = int(version)
        self.totals.recoveries += 1
        floor = self._floor if self._has_committed else (self.version or 0) - self._config.retention_steps
        if self._has_rewound or to < floor or (self.version is not None and to > self.version):
            self._loosen()
        self._floor = min(self._floor, to)
        self._policies = {made: by for made, by in self._policies.items() if made <= to}
        self.batches = {step: names for step, names in self.batches.items() if step < to}
        self._open, self._knows_open = [], True
        self.version = self.step_next = to
        self.epoch, self.is_recovering = epoch, True
        for name, task in self.tasks.items():
            task.may_wait = task.state in ("dead", "rejected")
            if task.state == "batched" or (task.state in ("sealed", "consumed") and task.step >= to):
                self.totals.consumed -= task.state == "consumed"
                self._put(name, "lost")

    def _recovered(self, version: str, _epoch: str) -> None:
        self.is_recovering = False
        for name in self.in_state("lost"):
            text = f"task {name} of step {self.tasks[name].step} was not put back by the recovery to {version}"
            self._against("lost", text)

    def _loosen(self) -> None:
        """Notes that a recovery may have dropped and freed tasks without an event."""
        self.notes.append("the server had lost writes, or tasks were freed: a recovery dropped some without an event")
        self.counts_consumed = False
        self._policies.clear()
        for name, task in self.tasks.items():
            task.is_whole = False
            self._put(name, "unknown")

    def _repaired(self, *changes: str) -> None:
        self.notes.append(f"counters had drifted and were rewritten (name, before, after): {' '.join(changes)}")

    # -- book-keeping ----------------------------------------------------------------------------------------------

    def _known(self, name: str) -> Task:
        if name not in self.tasks:
            if self.is_whole:
                self._against("log", f"task {name} appears without having been enqueued")
            self.tasks[name] = Task("pending" if self.is_whole else "unknown", is_whole=self.is_whole)
            self._counts[self.tasks[name].state] += 1
        return self.tasks[name]

    def _expect(self, name: str, what: str, *states: State) -> None:
        task = self._known(name)
        if task.state in states or task.state == "unknown" or (task.may_wait and "pending" in states):
            return
        self._against("state", f"task {name} {what} while it was {task.state}")

    def _without_attempts(self, name: str, what: str) -> None:
        for sample in self.tasks[name].held.values():
            self._against("state", f"task {name} {what} while {sample.attempt} held one of its slots")

    def _is_batched(self, name: str) -> bool:
        return name in self.tasks and self.tasks[name].state == "batched"

    def _put(self, name: str, state: State) -> None:
        task = self.tasks[name]
        self._counts[task.state] -= 1
        self._counts[state] += 1
        task.state, task.may_wait = state, False

    def _reset(self, name: str, state: State) -> None:
        """Takes the task from its workers, and forgets its samples."""
        self._put(name, state)
        task = self.tasks[name]
        task.step, task.is_whole = -1, True
        task.held.clear()
        task.done.clear()

    def _against(self, rule: str, text: str, guarantee: str = "") -> None:
        self.against(rule, text, self._event, guarantee)

    def _against_by_config(self, rule: str, text: str) -> None:
        self._against(rule, text)
        self._by_config[rule] += 1

    def _survives(self, version: int, epoch: str) -> bool:
        """Whether a policy is of the surviving history, or the log does not say."""
        if self.version is None or version < 0:
            return True
        return version <= self.version and self._policies.get(version, epoch) == epoch


def _situation(task: Task, slot: int) -> str:
    if slot in task.done:
        return "the slot had a result"
    holder = task.held[slot].attempt if slot in task.held else "nobody"
    return f"{holder} held the slot and the task was {task.state}"
