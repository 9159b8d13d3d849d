"""Ghost variables: the true history of a run, followed through answers and views alone, without the model.

A model that is wrong in the same way as the scripts would never disagree with them. The ghost knows only the
guarantees: it keeps the true holder of each slot, every accepted result and the history of batches, and checks G1 to G6.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from .calls import Answer, Call, Claim, Enqueue, Forget, RecoverBegin, RecoverSweep, Submit, Take
from .view import View

SlotKey = tuple[str, int]


class Violation(AssertionError):
    """A guarantee (docs/protocol.md, Guarantees) was broken."""


@dataclass(slots=True)
class Issued:
    """An attempt that a claim handed out."""

    slot: SlotKey
    version: int
    epoch: str
    session: str


@dataclass(slots=True)
class Ghost:
    """The attempts handed out, the results accepted, and the tasks trained on."""

    issued: dict[str, Issued] = field(default_factory=lambda: {})
    latest: dict[SlotKey, str] = field(default_factory=lambda: {})
    accepted: dict[SlotKey, str] = field(default_factory=lambda: {})
    sealed: dict[int, list[str]] = field(default_factory=lambda: {})
    #: Tasks that must not be trained again after a recovery from a checkpoint, though the server forgot their steps.
    trained_before: frozenset[str] = frozenset()
    #: version -> epoch that made it, on the history that survives.
    history: dict[int, str] = field(default_factory=lambda: {})
    enqueued: set[str] = field(default_factory=set[str])
    #: Rows that had ended when the run forgot them; and rows that a checkpoint lists and the server lost.
    settled: set[str] = field(default_factory=set[str])
    owed: set[str] = field(default_factory=set[str])
    #: Rows that somebody forgot on purpose: no recovery owes them.
    given_up: set[str] = field(default_factory=set[str])

    def observe(self, call: Call, answer: Answer, before: View, after: View) -> None:
        """Follows one call. Raises Violation if a guarantee is broken."""
        if "error" in answer:
            require(_without_call(before) == _without_call(after), f"an error answer changed the state: {answer}")
            return
        match call:
            case RecoverBegin():
                self._recovered(call, before, after)
            case RecoverSweep():
                for name in self.enqueued - after["tasks"].keys():
                    self.forget(name)
            case Enqueue():
                self._enqueued(call, answer, before, after)
            case Claim():
                self._claimed(call, answer, before, after)
            case Submit():
                self._submitted(call, answer, before, after)
            case Take():
                self._taken(call, answer, after)
            case Forget():
                self._forgotten(call, answer, before, after)
            case _:
                pass
        self._note_history(after)
        self._forget_reset_slots(after)
        self._check(after)

    def _note_history(self, after: View) -> None:
        """A version is made once, by the trainer that advanced to it, until a recovery undoes it."""
        for version, epoch in after["policies"].items():
            made = self.history.setdefault(version, epoch)
            require(made == epoch, f"G6: version {version} was made by {made} and is now {epoch}")

    def _recovered(self, call: RecoverBegin, before: View, after: View) -> None:
        """From now on the history is that of the checkpoint, or the server's up to the version."""
        if before["run"]["epoch"] == after["run"]["epoch"]:
            return
        self.trained_before = frozenset()
        if call.file is not None and call.listed_order >= 0:
            # Without the checkpoint's cursor, the data loader brings again the tasks that the server forgot.
            self.trained_before = call.file.trained if call.cursor is not None else frozenset()
            if call.cursor is not None:
                self.settled, self.owed = set(self.given_up), set()
            self.settled |= call.file.done
            self.owed |= call.file.unfinished.keys() - before["tasks"].keys()
        # A failover may have lost versions of the checkpoint's history, which another trainer has made again since.
        made_anew = [made - 1 for made, epoch in call.policies if self.history.get(made, epoch) != epoch]
        version = min(before["run"]["version"], after["run"]["version"], *made_anew)
        self.history = {made: epoch for made, epoch in self.history.items() if made <= version}
        self.history.update(call.policies)
        self.sealed = {step: names for step, names in self.sealed.items() if step < version}

    def _enqueued(self, call: Enqueue, answer: Answer, before: View, after: View) -> None:
        names = [new.id for new in call.tasks]
        refused = [names[at] for at in answer["existing"] if names[at] not in names[:at]]
        lost = set(refused) - before["tasks"].keys() - self.settled
        require(not lost, f"G1: {sorted(lost)} are refused, and neither there nor finished")
        self.enqueued |= {new.id for new in call.tasks if new.id in after["tasks"]}
        self.given_up -= self.enqueued

    def _claimed(self, call: Claim, answer: Answer, before: View, after: View) -> None:
        known_before = set(self.issued)
        for each in answer["attempts"]:
            name, key = each["id"], (each["task"], each["slot"])
            known = self.issued.get(name)
            if known is None:
                require(
                    self.accepted.get(key) is None or _was_reset(before, after, key), f"G2: done slot {key} handed out"
                )
                self.issued[name] = Issued(key, each["version"], each["epoch"], call.session)
                self.latest[key] = name
            else:
                require(known.session == call.session, f"G3: attempt {name} handed to two sessions")
            require(self.latest[key] == name, f"G3: slot {key} belongs to {self.latest[key]}, not to {name}")
        started = set(after["running"]) - set(before["running"])
        if started:
            require(capacity(after) >= 0, f"G4: {sorted(started)} started, capacity is now {capacity(after)}")
        most = after["config"]["samples"]
        if most is not None and any(each["id"] not in known_before for each in answer["attempts"]):
            require(held(after) <= most, f"G4: {held(after)} slots are held, {most} may be")

    def _submitted(self, call: Submit, answer: Answer, before: View, after: View) -> None:
        for item, each in zip(call.items, answer["answers"], strict=True):
            if each["answer"] != "accepted" or item.verdict != "accept":
                continue
            issued = self.issued.get(item.attempt)
            if issued is None:
                raise Violation(f"G3: {item.attempt} was accepted and never handed out")
            require(
                self.latest[issued.slot] == item.attempt, f"G3: accepted {item.attempt}, not the latest of its slot"
            )
            done = self.accepted.setdefault(issued.slot, item.attempt)
            require(done == item.attempt, f"G2: slot {issued.slot} accepted {done} and {item.attempt}")
            if _letter(before, issued.slot) == "H":
                require(issued.session in before["sessions"], f"G3: accepted {item.attempt} of a session that is gone")

    def _taken(self, call: Take, answer: Answer, after: View) -> None:
        if not answer["sealed"] or call.step in self.sealed:
            return
        names = after["batches"][call.step]
        limit = after["config"]["limit"]
        for name in names:
            for index in range(after["tasks"][name]["samples"]):
                attempt = self.accepted.get((name, index))
                if attempt is None:
                    continue
                require(attempt in after["results"], f"G1: the bytes of {attempt} are lost")
                require(after["results"][attempt].startswith(attempt.encode()), f"G2: {attempt} has another's bytes")
                issued = self.issued[attempt]
                survives = issued.epoch == self.history.get(issued.version)
                require(survives, f"G6: {attempt} is of a lost future: {issued}")
                age = call.step - issued.version
                if limit is not None and after["config"]["on_stale"] != "keep":
                    require(age <= limit, f"G5: step {call.step} trains {attempt} of staleness {age}")
        again = self.trained_before & set(names)
        require(not again, f"G6: {sorted(again)} were consumed by a step that survives")
        for step, others in self.sealed.items():
            require(not set(names) & set(others), f"G2: tasks of step {step} are trained again in step {call.step}")
        self.sealed[call.step] = list(names)

    def _forgotten(self, call: Forget, answer: Answer, before: View, after: View) -> None:
        for name, word in zip(call.tasks, answer["answers"], strict=True):
            # A repeated answer may be about a task that has come again since.
            if word == "forgotten" and name in before["tasks"].keys() - after["tasks"].keys():
                sealed = any(name in names for names in self.sealed.values())
                require(not sealed, f"G1: {name} is in a sealed batch and was forgotten")
                self.forget(name)
                self.given_up.add(name)
                self.settled.add(name)

    def trained(self, version: int) -> frozenset[str]:
        """The tasks that the steps below a version consumed."""
        return frozenset(name for step, names in self.sealed.items() if step < version for name in names)

    def forget(self, name: str) -> None:
        """The run was allowed to forget this task, and did. A later task may have its id."""
        self.enqueued.discard(name)
        for names in self.sealed.values():
            if name in names:
                names.remove(name)

    def _forget_reset_slots(self, after: View) -> None:
        for key in list(self.accepted):
            task = after["tasks"].get(key[0])
            if task is None or task["state"] in ("dead", "rejected") or task["slots"][key[1]][0] != "D":
                del self.accepted[key]

    def _check(self, view: View) -> None:
        missing = self.enqueued - view["tasks"].keys()
        require(not missing, f"G1: tasks {sorted(missing)} are gone")
        places: dict[str, list[str]] = {name: [] for name in view["tasks"]}
        for kind in ("pending", "delayed", "running", "ready", "dead", "rejected"):
            for name in view[kind]:
                places[name].append(kind)
        for step, names in view["batches"].items():
            for name in names:
                places[name].append("batched")
                require(view["tasks"][name]["step"] == step, f"G1: {name} is in batch {step} and thinks otherwise")
        for name, found in places.items():
            require(
                found == [view["tasks"][name]["state"]],
                f"G1: task {name} is {view['tasks'][name]['state']}, in {found}",
            )
        for step, names in self.sealed.items():
            require(view["batches"].get(step, []) == names, f"the sealed batch {step} changed: {names}")
        run = view["run"]
        require(run["running"] == len(view["running"]), f"I1: running is {run['running']}, not {len(view['running'])}")
        require(run["accepted"] in (None, accepted(view)), f"I2: accepted is {run['accepted']}, not {accepted(view)}")
        self._check_holders(view)

    def _check_holders(self, view: View) -> None:
        holding = {name: session for session, held in view["held"].items() for name in held}
        for name, task in view["tasks"].items():
            for index, slot in enumerate(task["slots"]):
                if slot[0] == "H":
                    attempt = slot[3]
                    require(
                        self.latest.get((name, index)) == attempt, f"G3: {attempt} holds a slot unknown to the ghost"
                    )
                    require(holding.pop(attempt, None) == slot[5], f"{attempt} is not among what its session holds")
                if slot[0] == "D" and task["state"] in ("running", "ready", "batched"):
                    require(self.accepted.get((name, index)) == slot[3], f"G2: {slot[3]} is done and was not accepted")
        require(not holding, f"sessions hold what no slot knows: {holding}")


def accepted(view: View) -> int:
    """I2 from the sets of a view."""
    run, size = view["run"], view["config"]["batch"]
    count = run["version"] * size + len(view["ready"])
    for step, names in view["batches"].items():
        if step == run["step_next"]:
            count += len(names)
        elif step >= run["version"]:
            count += max(size, len(names))
    return count


def capacity(view: View) -> int:
    """docs/protocol.md, Capacity, from the sets of a view."""
    config = view["config"]
    free = config["concurrent"] - len(view["running"])
    if config["samples"] is not None:
        free = min(free, config["samples"] - held(view))
    if config["staleness"] is None:
        return free
    budget = (config["staleness"] + view["run"]["version"] + 1) * config["batch"]
    return min(free, budget - accepted(view) - len(view["running"]))


def held(view: View) -> int:
    """How many slots are held."""
    return sum(len(attempts) for attempts in view["held"].values())


def require(holds: bool, what: str) -> None:
    """Raises Violation."""
    if not holds:
        raise Violation(what)


def _letter(view: View, key: SlotKey) -> Any:
    task = view["tasks"].get(key[0]) if view else None
    return task["slots"][key[1]][0] if task else None


def _was_reset(before: View, after: View, key: SlotKey) -> bool:
    """Whether the task went back to waiting in this call, so that its slots are new."""
    return after["tasks"][key[0]]["requeues"] > before["tasks"][key[0]]["requeues"]


def _without_call(view: View) -> View:
    """A refusal may use up the number of its call, and nothing else."""
    return {**view, "run": {**view["run"], "call": 0}} if view else {}
