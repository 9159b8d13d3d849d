"""Checkpoints and recovery of the reference model."""

from __future__ import annotations

from .calls import Answer, Commit, RecoverBegin, RecoverSweep, error
from .state import Run, Task
from .transitions import cut, end_attempt, restart, throw_away, to_waiting

#: How many earlier epoch tokens are remembered.
REMEMBERED_TOKENS = 100
#: How many checkpoints of operators are listed.
LISTED_OF_OPERATORS = 16


def take_epoch(run: Run, token: str, at_least: int = 0) -> None:
    """Begins a new epoch, which fences the previous trainer."""
    run.old_tokens = [*run.old_tokens, run.token][-REMEMBERED_TOKENS:]
    run.token = token
    run.epoch_number = max(run.epoch_number, at_least) + 1
    run.call_number, run.call_answer, run.wait = 0, None, None
    if run.supply == "more":
        run.supply = "interrupted"


def commit(run: Run, call: Commit) -> Answer:
    """Notes a checkpoint. The floor is a trainer's oldest kept checkpoint; an operator's checkpoint moves no floor."""
    if call.request:
        if _is_undone(run, call.epoch, call.version):
            return error("UNDONE")
        if call.version < run.floor:
            return error("GONE")
    if call.version > run.version:
        return error("EARLY")
    if call.request:
        run.by_operators = sorted({*run.by_operators, call.version})[-LISTED_OF_OPERATORS:]
        return {"floor": run.floor}
    run.committed = sorted({*run.committed, call.version})[-run.config.keep_checkpoints :]
    run.floor = max(run.floor, run.committed[0])
    return {"floor": run.floor}


def _is_undone(run: Run, epoch: str, version: int) -> bool:
    """Whether a recovery after this epoch went below the version."""
    number_of_epoch = int(epoch.partition(".")[0] or 0)
    return epoch != "" and any(number > number_of_epoch and to < version for number, to in run.recoveries)


def raise_floor(run: Run) -> None:
    """Without checkpoints the floor follows the version, at the distance of `retention_steps`."""
    if not run.committed and run.recovering is None:
        run.floor = max(run.floor, run.version - run.config.retention_steps)


def begin(run: Run, call: RecoverBegin) -> Answer:
    """The run goes to another version at once; its tasks follow in the sweep."""
    if call.token == run.token:
        return {"epoch": run.epoch}
    if call.token in run.old_tokens:
        return error("FENCED")
    file_number = int(call.file_epoch.split(".")[0]) if call.file_epoch else 0
    if _is_undone(run, call.file_epoch, call.version):
        return error("UNDONE")
    has_list = call.listed_order >= 0
    if call.version < max(run.floor, 0 if has_list else run.known_version):
        return error("GONE")
    before = run.version if run.recovering is None else min(run.recover_limit, run.version)
    made_anew = [version - 1 for version, epoch in call.policies if run.policies.get(version, epoch) != epoch]
    limit = max(0, min(before, call.version, *made_anew))
    run.count("consumed", -sum(b.size for b in run.batches.values() if limit <= b.step < before))
    known = {**run.policies, **dict(call.policies)}
    run.recover_limit = limit
    take_epoch(run, call.token, file_number)
    run.is_feasible &= call.version <= before and limit == call.version
    run.is_over = False
    if has_list:
        run.awaited.clear()
    run.policies = {version: epoch for version, epoch in known.items() if version <= call.version}
    run.policies.setdefault(call.version, run.epoch)
    run.version = run.step_next = run.recovering = call.version
    run.recoveries += [*(each for each in call.recoveries if each not in run.recoveries)]
    run.recoveries.append((run.epoch_number, call.version))
    run.committed = [version for version in run.committed if version <= call.version]
    run.by_operators = [version for version in run.by_operators if version <= call.version]
    run.in_flight = call.in_flight
    _compare_orders(run, call, forgot_steps=limit < call.version)
    run.blob = call.blob or b""
    for batch in run.batches.values():
        if batch.step >= run.recover_limit:
            batch.sealed = False
    return {"epoch": run.epoch}


def _compare_orders(run: Run, call: RecoverBegin, *, forgot_steps: bool) -> None:
    """Finds the numbers that checkpoint and server have in common, and the cursor of the data loader."""
    run.common, run.lost, run.by_cursor, run.listed_given = -1, False, False, ()
    older = 0 <= call.listed_order < run.known_from
    if older or call.version < run.known_version:
        run.finished.clear()
    run.known_version = min(run.known_version, call.version)
    run.listed_order = call.listed_order
    if call.listed_order < 0:
        return
    pairs = zip(call.given, run.given, strict=False)
    same = next((at for at, (there, here) in enumerate(pairs) if there != here), min(len(call.given), len(run.given)))
    run.common, run.lost = same, same < call.listed_order
    forgot = run.lost or forgot_steps
    if call.cursor is not None:
        run.by_cursor = run.lost
        if forgot or older:
            run.cursor = call.cursor
            run.supply = "interrupted" if run.supply else ""
        if forgot and run.orders > run.common:
            run.finished.clear()
        if run.by_cursor:
            run.listed_given = call.given
    if forgot or older:
        before = 0 if call.cursor is not None else run.known_from
        run.known_from, run.known_version = max(before, call.listed_order), call.version


def sweep(run: Run, call: RecoverSweep) -> Answer:
    """Moves tasks to their state at the recovered version."""
    if run.recovering is None:
        return error("EARLY")
    for name, listed in call.tasks:
        task = run.tasks.get(name)
        if task is not None:
            _place(run, task, listed)
        elif listed:
            run.finished.pop(name, None)
            run.awaited.add(name)
    return {"done": len(call.tasks)}


def _place(run: Run, task: Task, listed: bool) -> None:
    assert run.recovering is not None
    forgot = run.recover_limit < run.recovering
    foreign = run.lost and task.born > run.common
    if foreign and run.by_cursor and not listed:
        _forget(run, task)
        return
    known = (task.born if forgot else task.order) <= run.common
    parted = run.common >= 0 and forgot and task.born > run.common
    step = -1 if task.step is None else task.step
    if task.state == "batched" and step < run.recover_limit and not parted and not (known and listed):
        return
    if task.state in ("dead", "rejected") and not (known and not listed and forgot):
        if listed if known else step >= run.recovering or parted:
            restart(run, task)
    elif known and not listed and (forgot or task.order == task.born):
        _forget(run, task)
        run.finished[task.id] = False
        run.known_from, run.known_version = max(run.known_from, run.listed_order), run.recovering
    elif task.state not in ("pending", "delayed"):
        _judge(run, task)


def _judge(run: Run, task: Task) -> None:
    for index, slot in enumerate(task.slots):
        if slot.letter in "HD":
            good = run.surviving(slot.policy) and run.surviving((slot.newest, slot.newest_epoch))
            if not good or (slot.letter == "D" and task.attempt_id(index) not in run.results):
                to_waiting(run, task, "revoked")
                return
    if task.state == "running" and run.in_flight == "requeue" and task.has("H"):
        for index in range(task.samples):
            if task.slots[index].letter == "H":
                run.revoked.add(task.slots[index].session)
                end_attempt(run, task, index, "released")
        return
    _mend_versions(run, task)
    if task.state == "batched" and not run.fits(task):
        to_waiting(run, task, "revoked")
    elif task.state == "batched":
        assert task.step is not None
        run.batches[task.step].tasks.remove(task.id)
        task.state, task.step = "ready", None


def _mend_versions(run: Run, task: Task) -> None:
    """Recomputes the task's versions. Lost versions came from attempts that ended without a result."""
    assert task.newest is not None
    if task.newest > run.version:
        live = [slot for slot in task.slots if slot.letter in "HD"]
        task.oldest = min(slot.policy[0] for slot in live)
        task.newest = max(slot.newest for slot in live)


def _forget(run: Run, task: Task) -> None:
    if task.state == "batched" and task.step is not None:
        run.batches[task.step].tasks.remove(task.id)
    for index, slot in enumerate(task.slots):
        if slot.letter == "D":
            throw_away(run, task, index, "revoked")
        elif slot.letter == "H":
            cut(run, slot, "revoked")
            run.revoked.add(slot.session)
    del run.tasks[task.id]


def end(run: Run) -> Answer:
    """Ends the recovery: the run goes on."""
    if run.recovering is None:
        return error("EARLY")
    limit = run.recover_limit
    assert not any(batch.tasks for batch in run.batches.values() if batch.step >= limit), "not every task was swept"
    run.batches = {step: batch for step, batch in run.batches.items() if step < limit}
    for batch in run.batches.values():  # if the server had forgotten versions, the recovery went forward
        batch.old |= batch.step + 2 <= run.version
    run.recovering = None
    if run.listed_given:
        run.given = run.listed_given
    run.orders = max(run.orders, run.known_from)
    run.given += (run.token,) * (run.orders - len(run.given))
    return {"accepted": run.accepted_count(), "running": len(run.running()), "capacity": run.capacity()}
