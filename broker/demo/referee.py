"""Judges a run by its event log alone: replays every transition and checks the guarantees of the broker against it.

Knows nothing of the demo's processes, nor of the counters in the server. What it checks:

- a slot is handed out to one attempt at a time, and has at most one accepted result, that of the attempt that holds it;
- a batch holds finished tasks only, each once, and is as large as its seal says; no task is trained on twice;
- versions advance one by one, each by the batch of its step;
- no rollout that is trained on is staler than the bound, by the versions that its attempts were claimed with;
- no task is started beyond the budget: started, finished and batched ones together never exceed (S + 1) * B;
- a recovery puts every task of an undone step back, and no sample of an undone policy is trained on.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Final

from broker.demo.ledger import IN_USE, Held, State, Tally, Traced, Verdict

_ATTEMPT: Final = re.compile(r"(?P<slot>(?P<task>[^#\s]+)#\d+)\.\d+\.\w+")


class Referee:
    """Follows the events of one run from its beginning.

    Args:
        batch_size: B, tasks of a full batch.
        max_staleness: S.
    """

    def __init__(self, batch_size: int, max_staleness: int) -> None:
        self.tally = Tally()
        self.verdict = Verdict()
        self._max_staleness = max_staleness
        self._budget = (max_staleness + 1) * batch_size
        self._tasks: dict[str, Traced] = {}
        self._in_use = 0
        #: The attempt that holds each slot, and what those attempts hold.
        self._holders: dict[str, str] = {}
        self._held: dict[str, Held] = {}
        self._claimed_before: set[str] = set()
        self._joined: set[str] = set()
        #: Tasks of each batch that was not trained on yet, and the steps among them that are sealed.
        self._batches: dict[int, set[str]] = {}
        self._sealed: set[int] = set()
        #: Epoch that made each version of the history that survives.
        self._policies: dict[int, str] = {}
        self._judges: dict[str, Callable[..., None]] = {
            "open": self._open,
            "join": self._join,
            "enqueue": self._enqueue,
            "start": self._start,
            "claim": self._claim,
            "done": self._done,
            "ended": self._ended,
            "ready": self._ready,
            "batch": self._batch,
            "seal": self._seal,
            "advance": self._advance,
            "requeue": self._requeue,
            "late": self._late,
            "dead": self._finished,
            "rejected": self._finished,
            "retry": self._retry,
            "recover": self._recover,
            "recovered": self._recovered,
        }

    def feed(self, kind: str, words: Sequence[str]) -> None:
        """Takes the next event; kinds that say nothing about the guarantees are passed over."""
        judge = self._judges.get(kind)
        if judge is None:
            return
        try:
            judge(*words)
        except (TypeError, ValueError):
            self.verdict.against("log", f"an event that makes no sense: {kind} {' '.join(words)}")

    def missed(self, count: int) -> None:
        """Takes note that so many entries were never seen: with any, nothing can be said about the run."""
        if count:
            self.verdict.against("log", f"{count} entries of the event log were gone before they could be read")

    def stalled(self, seconds: float) -> None:
        """Takes note that no result came and no step was made for so long although there is work."""
        ended = ", ".join(f"{count} {why}" for why, count in sorted(self.tally.ended.items()))
        text = f"no result and no step for {seconds:.0f} s (attempts that ended without a result: {ended or 'none'})"
        self.verdict.against("progress", text)

    def compare(self, version: int, finished: set[str]) -> None:
        """Holds a checkpoint against the log: what it calls finished is what was trained on before its version."""
        trained = {name for name, task in self._tasks.items() if task.state == "consumed" and task.step < version}
        gone = self.in_state("gone")
        for what, names in (
            ("calls finished, but was not trained on", finished - trained - gone),
            ("calls unfinished, but was trained on", trained - finished),
        ):
            if names:
                text = f"the checkpoint of version {version} has {len(names)} tasks that it {what}: {min(names)}"
                self.verdict.against("checkpoint", text)

    def held_by(self, worker: str) -> int:
        """How many slots the sessions of a worker hold (a session is named `<worker>~<number>...`)."""
        return sum(1 for held in self._held.values() if _worker(held.session) == worker)

    def has_joined(self, worker: str) -> bool:
        """Whether a worker has, or had, a session."""
        return worker in self._joined

    @property
    def trained_exactly_once(self) -> bool:
        """Whether nothing in the log or in a checkpoint says otherwise."""
        return not self.verdict.broken.keys() & {"duplicate", "checkpoint", "lost", "policy", "log"}

    def in_state(self, *states: State) -> set[str]:
        """The tasks that are in one of these states."""
        return {name for name, task in self._tasks.items() if task.state in states}

    # -- tasks -----------------------------------------------------------------------------------------------------

    def _enqueue(self, name: str) -> None:
        if name in self._tasks:
            self.verdict.against("enqueue", f"task {name} was enqueued twice")
            return
        self._tasks[name] = Traced()

    def _start(self, name: str, _first: str) -> None:
        self._expect(name, "was started", "pending")
        self._put(name, "running")
        if self._in_use > self._budget:
            text = f"task {name} was started as number {self._in_use} of at most {self._budget}"
            self.verdict.against("admission", text)

    def _ready(self, name: str) -> None:
        self._expect(name, "was finished", "running", "lost")
        self._put(name, "ready")

    def _requeue(self, name: str, _why: str) -> None:
        self._expect(name, "was requeued", "running", "ready", "batched", "lost")
        self._reset(name, "pending")

    def _finished(self, name: str, why: str) -> None:
        self._expect(name, f"was given up ({why})", "pending", "running", "ready", "batched", "lost")
        self._reset(name, "gone")

    def _retry(self, name: str) -> None:
        self._expect(name, "was tried again", "gone")
        self._reset(name, "pending")

    # -- workers and attempts ------------------------------------------------------------------------------------------

    def _join(self, session: str) -> None:
        self._joined.add(_worker(session))

    def _claim(self, attempt: str, version: str, epoch: str, session: str) -> None:
        slot, name = _parts(attempt)
        task = self._known(name)
        if slot in self._holders or slot in task.done or task.state != "running":
            self.verdict.against("claim", f"{attempt} was handed out while {self._situation(slot, task)}")
        self._holders[slot] = attempt
        self._held[attempt] = Held(int(version), epoch, session)
        if slot in self._claimed_before:
            self.tally.requeued += 1
        self._claimed_before.add(slot)

    def _done(self, attempt: str, _newest: str) -> None:
        slot, name = _parts(attempt)
        task = self._known(name)
        self.tally.accepted += 1
        if slot in task.done:
            self.tally.duplicates += 1
            self.verdict.against("duplicate", f"slot {slot} has a second accepted result, by {attempt}")
        elif self._holders.get(slot) != attempt:
            text = f"the result of {attempt} was accepted while {self._situation(slot, task)}"
            self.verdict.against("fencing", text)
        self._holders.pop(slot, None)
        held = self._held.pop(attempt, Held(-1, "", ""))
        task.done[slot] = (held.version, held.epoch)

    def _ended(self, attempt: str, why: str) -> None:
        slot, _ = _parts(attempt)
        self.tally.ended[why] += 1
        if self._holders.get(slot) != attempt:
            self.verdict.against("ended", f"{attempt} ended ({why}) without holding its slot")
            return
        del self._holders[slot]
        self._held.pop(attempt, None)

    def _late(self, _attempt: str, answer: str, _by: str) -> None:
        self.tally.late[answer] += 1

    def _situation(self, slot: str, task: Traced) -> str:
        if slot in task.done:
            return "the slot had a result"
        return f"{self._holders.get(slot, 'nobody')} held the slot and the task was {task.state}"

    # -- batches ---------------------------------------------------------------------------------------------------

    def _batch(self, name: str, step: str, oldest: str) -> None:
        task = self._known(name)
        if task.state in ("batched", "consumed"):
            self.tally.duplicates += 1
            text = f"task {name} of step {task.step} is in the batch of step {step} too"
            self.verdict.against("duplicate", text)
            return
        self._expect(name, f"joined the batch of step {step}", "ready")
        if int(step) in self._sealed:
            self.verdict.against("batch", f"task {name} joined the batch of step {step} after it was sealed")
        self._put(name, "batched")
        task.step, task.oldest_told = int(step), int(oldest)
        self._batches.setdefault(int(step), set()).add(name)

    def _seal(self, step: str, size: str, _digest: str) -> None:
        batch = self._batches.get(int(step), set())
        if len(batch) != int(size):
            text = f"the batch of step {step} was sealed with {size} tasks, the log has {len(batch)}"
            self.verdict.against("batch", text)
        self._sealed.add(int(step))

    def _advance(self, version: str, epoch: str) -> None:
        step = int(version) - 1
        if step != self.tally.version:
            self.verdict.against("advance", f"version {version} came after version {self.tally.version}")
        self.tally.version = int(version)
        self._policies[int(version)] = epoch
        self._sealed.discard(step)
        for name in self._batches.pop(step, set()):
            self._train(name, self._tasks[name], step)

    def _train(self, name: str, task: Traced, step: int) -> None:
        self._put(name, "consumed")
        self.tally.consumed += 1
        staleness = step - min([task.oldest_told, *(version for version, _ in task.done.values())])
        self.tally.staleness[staleness] += 1
        if staleness > self._max_staleness:
            text = f"task {name} was {staleness} versions old when step {step} trained on it"
            self.verdict.against("staleness", text)
        for slot, (version, epoch) in task.done.items():
            if self._policies.get(version) != epoch:
                text = f"step {step} trained on {slot}, made by version {version} of epoch {epoch}, which was undone"
                self.verdict.against("policy", text)

    # -- recovery --------------------------------------------------------------------------------------------------

    def _open(self, epoch: str) -> None:
        self._policies.setdefault(0, epoch)

    def _recover(self, version: str, _epoch: str) -> None:
        to = int(version)
        self.tally.recoveries += 1
        self.tally.version = to
        self._policies = {made: epoch for made, epoch in self._policies.items() if made <= to}
        self._sealed = {step for step in self._sealed if step < to}
        self._batches = {step: names for step, names in self._batches.items() if step < to}
        for name, task in self._tasks.items():
            if task.state in ("batched", "consumed") and task.step >= to:
                if task.state == "consumed":
                    self.tally.consumed -= 1
                self._put(name, "lost")

    def _recovered(self, version: str, _epoch: str) -> None:
        for name in self.in_state("lost"):
            text = f"task {name} of step {self._tasks[name].step} was not put back by the recovery to {version}"
            self.verdict.against("lost", text)

    # -- book-keeping ----------------------------------------------------------------------------------------------

    def _known(self, name: str) -> Traced:
        if name not in self._tasks:
            self.verdict.against("log", f"task {name} appears without having been enqueued")
        return self._tasks.setdefault(name, Traced())

    def _expect(self, name: str, what: str, *states: State) -> None:
        task = self._known(name)
        if task.state not in states or (task.step in self._sealed and task.state == "batched"):
            self.verdict.against("state", f"task {name} {what} while it was {task.state}")

    def _put(self, name: str, state: State) -> None:
        task = self._known(name)
        self._in_use += (state in IN_USE) - (task.state in IN_USE)
        self.tally.most_in_use = max(self.tally.most_in_use, self._in_use)
        task.state = state

    def _reset(self, name: str, state: State) -> None:
        """Nobody works on it any more, and nothing of it is kept."""
        self._put(name, state)
        task = self._tasks[name]
        self._batches.get(task.step, set()).discard(name)
        task.step, task.oldest_told = -1, -1
        task.done.clear()


def _worker(session: str) -> str:
    """The name of a session's worker."""
    return session.partition("~")[0]


def _parts(attempt: str) -> tuple[str, str]:
    """The slot and the task of an attempt."""
    match = _ATTEMPT.fullmatch(attempt)
    if match is None:
        raise ValueError(attempt)
    return match["slot"], match["task"]
