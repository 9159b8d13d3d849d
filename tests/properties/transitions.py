"""What happens to one task: the transitions of the protocol that several calls share."""

from __future__ import annotations

from . import breaker, quarantine
from .calls import Answer
from .state import Run, Slot, Task

#: Faults of this many sessions are one failure of the task.
MOST_FAULTY = 3
#: How long, at least, a session gets no slot again at which it has failed, ms.
LEAST_BAR_MS = 1_000
#: Why an attempt ended -> the total that counts it.
TOTAL_OF = {
    "expired": "expired",
    "failed": "failed",
    "fault": "faults",
    "rejected": "verdicts",
    "released": "released",
    "stale": "released",
}


def drop_result(run: Run, task: Task, index: int) -> None:
    """Deletes the bytes of a slot's attempt."""
    run.results.pop(task.attempt_id(index), None)


def cut(run: Run, slot: Slot, cause: str) -> None:
    """A held slot's attempt ends without a result: what it generated is lost."""
    run.measure(f"ms_lost_{cause}", run.clock_ms - slot.claimed_ms)
    run.measure("n_cut", 1)
    slot.claimed_ms = run.clock_ms


def throw_away(run: Run, task: Task, index: int, cause: str) -> None:
    """Deletes the result of a done slot, which is lost."""
    slot = task.slots[index]
    drop_result(run, task, index)
    if slot.length_ms is not None:
        run.measure(f"ms_lost_{cause}", slot.length_ms)
        run.measure("ms_thrown", slot.length_ms)
        run.measure("n_thrown", 1)
        slot.length_ms = None


def forget_faults(task: Task) -> None:
    """Worker faults are not remembered beyond the end of the task."""
    for slot in task.slots:
        slot.faulty, slot.faults, slot.barred_ms = [], 0, 0


def leave_batch(run: Run, task: Task) -> None:
    """Takes the task out of the unsealed batch, if it is in it."""
    if task.state == "batched":
        assert run.unsealed(task)
        assert task.step is not None
        run.batches[task.step].tasks.remove(task.id)


def finish(run: Run, task: Task, state: str, reason: str, why: str) -> None:
    """Ends the task dead or rejected; `why` is the reason that its live attempts get.

    Done slots keep their letter, so that a repeated submit still gets its answer; their bytes are deleted.
    """
    assert state in ("dead", "rejected")
    leave_batch(run, task)
    for index, slot in enumerate(task.slots):
        if slot.letter == "H":
            run.revoked.add(slot.session)
            cut(run, slot, why)
            slot.letter, slot.ended = "O", why
        elif slot.letter == "D":
            throw_away(run, task, index, why)
        elif slot.letter == "W":
            slot.letter = "O"
    forget_faults(task)
    task.state = "dead" if state == "dead" else "rejected"
    task.reason = reason
    task.ended_ms = run.clock_ms
    run.count(state)
    task.step = run.step_next
    task.first, task.oldest, task.newest, task.due_ms = 0, None, None, 0


def to_waiting(run: Run, task: Task, why: str) -> None:
    """Back to pending, or to delayed until the latest backoff of its slots; `why` is the reason for live attempts."""
    leave_batch(run, task)
    due = max((slot.due_ms for slot in task.slots if slot.letter == "W"), default=0)
    for index, slot in enumerate(task.slots):
        if slot.letter == "H":
            run.revoked.add(slot.session)
            cut(run, slot, why)
            slot.ended = why
        elif slot.letter == "D":
            throw_away(run, task, index, why)
            slot.ended = why
        if slot.letter != "F":
            slot.letter, slot.due_ms, slot.deadline_ms = "O", 0, 0
    task.due_ms = due if due > run.clock_ms else 0
    task.state = "delayed" if task.due_ms else "pending"
    task.first, task.oldest, task.newest, task.step = 0, None, None, None
    task.requeues += 1
    run.count("requeued")


def restart(run: Run, task: Task) -> None:
    """A dead or rejected task starts over; tries, errors and stale requeues are 0."""
    assert task.state in ("dead", "rejected")
    for slot in task.slots:
        if slot.letter == "D":
            slot.ended = "revoked"
        slot.letter, slot.tries, slot.by_error = "O", 0, False
        slot.due_ms = slot.deadline_ms = 0
    task.requeues += 1
    task.stale_requeues, task.state, task.step, task.reason = 0, "pending", None, ""
    task.last_error = None


def reset_stale(run: Run, task: Task) -> None:
    """Resets a task that is too old, or that a batch has waited for too long, as `on_stale` says."""
    assert task.state in ("running", "ready") or run.unsealed(task)
    run.count("stale")
    if run.config.on_stale == "drop":
        finish(run, task, "rejected", "stale", "stale")
        return
    task.stale_requeues += 1
    if task.stale_requeues > run.config.max_stale_requeues:
        finish(run, task, "rejected", "stale", "stale")
    else:
        to_waiting(run, task, "stale")


def close_surplus(run: Run, task: Task) -> None:
    """Enough samples are done: the task does not wait for the others."""
    for slot in task.slots:
        if slot.letter == "H":
            run.revoked.add(slot.session)
            cut(run, slot, "surplus")
            slot.ended = "surplus"
            run.count("surplus")
        if slot.letter in "OWH":
            slot.letter, slot.due_ms, slot.deadline_ms = "S", 0, 0


def end_check(run: Run, task: Task, why: str, reason: str) -> None:
    """Decides what becomes of a running task after one of its slots ended.

    Args:
        why: how the slot ended.
        reason: stored with the task if the task ends.
    """
    assert task.state == "running"
    possible = task.samples - task.count("F")
    if task.enough is not None and task.count("D") >= task.enough:
        close_surplus(run, task)
    if possible < task.min_samples:
        finish(run, task, "dead" if task.errors else "rejected", reason, "revoked")
    elif not task.has("OWH"):
        task.state, task.last_error = "ready", None
        forget_faults(task)
    elif not task.has("HD"):
        to_waiting(run, task, why)


def end_attempt(
    run: Run,
    task: Task,
    index: int,
    why: str,
    reason: str = "",
    retry: bool = True,
    counts: bool | None = None,
    among_others: bool = False,
) -> str:
    """A held slot's attempt ends without a result.

    Args:
        counts: whether the breaker notes what it takes; None: it is a failure of its own.
        among_others: the session lost several tasks at once. It costs no try where the attempt before did not expire.
        why: `expired`, `failed`, `fault` (of the worker), `rejected`, `released`, or `stale` (its policy does not
            survive: no penalty).

    Returns:
        `final` if the slot failed for good, else `again`.
    """
    slot = task.slots[index]
    assert slot.letter == "H"
    config = run.config
    cut(run, slot, "released" if why == "stale" else why)
    slot.ended, slot.deadline_ms = why, 0
    if why == "expired":
        run.revoked.add(slot.session)
    run.count(TOTAL_OF[why])
    slot.letter = "O"
    outcome = "again"
    if why in ("expired", "failed", "fault") and run.breaker.halted:
        pass  # nothing is taken
    elif why == "rejected":
        slot.letter, outcome = "F", "final"
        run.ailing.pop(slot.session, None)
    elif why in ("expired", "failed", "fault"):
        is_final = why == "failed" and not retry
        is_spared = (among_others and not slot.expired_before) or (why == "fault" and not _faults_count(run, slot))
        tries = 0 if is_final or is_spared else 1
        is_alive = counts is None  # else its lease has passed
        if counts is None:
            counts = breaker.begin(run, {task.id})
        breaker.take(run, task, index, tries, counts=counts)
        if is_alive:
            quarantine.failed(run, slot.session, task.id)
        slot.tries += tries
        if is_final or (tries and slot.tries >= (task.max_attempts or config.max_attempts)):
            slot.letter, slot.by_error, outcome = "F", True, "final"
        elif tries and why != "expired" and config.retry_backoff_ms > 0:
            wait = min(config.retry_backoff_max_ms, config.retry_backoff_ms * 2 ** (slot.tries - 1))
            slot.letter, slot.due_ms = "W", run.clock_ms + wait
    end_check(run, task, why, reason or why)
    return outcome


def _faults_count(run: Run, slot: Slot) -> bool:
    """Notes a fault of the worker that had the slot. Those of three sessions are one failure of the task."""
    config = run.config
    slot.faults += 1
    if slot.session not in slot.faulty:
        slot.faulty.append(slot.session)
    if len(slot.faulty) == MOST_FAULTY:
        slot.faulty, slot.faults, slot.barred_ms = [], 0, 0
        return True
    wait = min(config.retry_backoff_max_ms, config.retry_backoff_ms * 2 ** (slot.faults - 1))
    slot.barred_ms = run.clock_ms + max(LEAST_BAR_MS, wait)
    return False


def sweep(run: Run, limit: int, spare: str = "") -> None:
    """Takes back what is due: retries, attempt time-outs, sessions; at most `limit` of each.

    Args:
        spare: the session that is calling, which is alive.
    """
    for name in [name for at, name in run.delayed() if at <= run.clock_ms][:limit]:
        run.tasks[name].state, run.tasks[name].due_ms = "pending", 0
    for member in [member for at, member in run.retries() if at <= run.clock_ms][:limit]:
        name, _, number = member.partition("#")
        slot = run.tasks[name].slots[int(number)]
        slot.letter, slot.due_ms = "O", 0
    late = [attempt for at, attempt in run.deadlines() if at <= run.lease_clock_ms][:limit]
    for attempt in late:
        found = holder(run, attempt)
        if found is not None:
            end_attempt(run, *found, "expired")
    gone = sorted((s.deadline_ms, s.id) for s in run.sessions.values() if s.deadline_ms <= run.lease_clock_ms)
    left = limit
    for _, session in [each for each in gone if each[1] != spare]:
        if left > 0:
            left -= max(1, end_session(run, session, "expired", left))
    breaker.look(run)


def end_session(run: Run, session: str, why: str, most: int | None = None) -> int:
    """Ends a session and all its attempts, or the first of them.

    Args:
        why: `expired`, or `released` if the session left.
        most: how many attempts may end; the session stays while it holds more.

    Returns:
        how many attempts were looked at.
    """
    held = run.held(session)
    counts = (
        breaker.begin(run, {task.id for _, _, task, _ in held[:most]}, session) if held and why == "expired" else None
    )
    several = run.lost_several == session or len({task.id for _, _, task, _ in held[:most]}) > 1
    if several and why == "expired":
        run.lost_several = session
    for _, attempt, _, _ in held[:most]:
        found = holder(run, attempt)
        if found is not None:
            end_attempt(run, *found, why, counts=counts, among_others=several)
    if most is None or len(held) <= most:
        del run.sessions[session]
        run.ailing.pop(session, None)
        return len(held)
    return most


def parse_attempt(attempt: str) -> tuple[str, int, int, str]:
    """Task, slot, number of the claim, random part of an attempt id."""
    name, _, rest = attempt.rpartition("#")
    index, claims, random = rest.split(".", 2)
    return name, int(index), int(claims), random


def holder(run: Run, attempt: str) -> tuple[Task, int] | None:
    """Task and slot, if this very attempt holds it."""
    name, index, _, _ = parse_attempt(attempt)
    task = run.tasks.get(name)
    if task is None or index >= len(task.slots):
        return None
    if task.slots[index].letter == "H" and task.attempt_id(index) == attempt:
        return task, index
    return None


def not_holder(run: Run, attempt: str) -> Answer:
    """The answer to a submit, release or fail of an attempt that does not hold its slot.

    `why` in an `unknown` answer says how the attempt ended.
    """
    name, index, claims, _ = parse_attempt(attempt)
    task = run.tasks.get(name)
    if task is None or index >= len(task.slots):
        return {"answer": "unknown", "why": "unknown"}
    slot = task.slots[index]
    if task.attempt_id(index) == attempt:
        why = "done" if slot.letter == "D" else slot.ended or "unknown"
        return {"answer": "stale"} if why == "stale" else {"answer": "unknown", "why": why}
    if slot.claims > claims:
        age = run.clock_ms - slot.claimed_ms
        return {"answer": "superseded", "by": task.attempt_id(index), "session": slot.session, "age_ms": age}
    return {"answer": "unknown", "why": "unknown"}


def repeated(run: Run, attempt: str, verdict: str) -> str:
    """The answer of a submit that repeats an accepted one, or an empty text."""
    name, index, _, _ = parse_attempt(attempt)
    task = run.tasks.get(name)
    if task is None or index >= len(task.slots) or task.attempt_id(index) != attempt:
        return ""
    slot = task.slots[index]
    if verdict == "accept":
        return "accepted" if slot.letter == "D" else ""
    return "rejected" if slot.letter != "D" and slot.ended == "rejected" else ""
