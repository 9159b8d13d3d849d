"""The workers' side of the reference model."""

from __future__ import annotations

from dataclasses import replace

from . import breaker, quarantine
from .calls import Answer, Claim, Fail, Join, Leave, Policy, Release, Renew, Submit, SubmitItem, error
from .state import Run, Session, Task
from .transitions import (
    end_attempt,
    end_check,
    end_session,
    holder,
    not_holder,
    parse_attempt,
    repeated,
    reset_stale,
    sweep,
)

WorkerCall = Join | Claim | Renew | Leave | Submit | Release | Fail


def execute(run: Run, call: WorkerCall) -> Answer:
    """Runs a call of a worker."""
    match call:
        case Join():
            return join(run, call)
        case Claim():
            return claim(run, call)
        case Renew():
            return renew(run, call)
        case Leave():
            return leave(run, call)
        case Submit():
            return submit(run, call)
        case Release():
            return release(run, call)
        case Fail():
            return fail(run, call)


def join(run: Run, call: Join) -> Answer:
    """Makes a new session, which the server numbers."""
    run.joins += 1
    name = f"{call.worker}~{run.joins}.{call.nonce}"
    run.sessions[name] = Session(name, call.worker, call.lease_ms, run.lease_clock_ms + call.lease_ms)
    return {"session": name, "lease_ms": call.lease_ms, "run_policy": (run.version, run.policies[run.version])}


def claim(run: Run, call: Claim) -> Answer:
    """Hands out open slots of running tasks, then starts tasks within capacity."""
    session = run.sessions.get(call.session)
    if session is None:
        return error("NOSESSION")
    if call.number < session.number:
        return error("OLDREQUEST")
    if call.number == session.number:
        if call.random != session.random:
            return error("BADARG")
        assert session.answer is not None
        kept = [each for each in session.answer["attempts"] if _holds(run, call.session, each["id"])]
        return {**session.answer, "attempts": kept, **_newest(run)}
    session.number, session.random = call.number, call.random
    sweep(run, call.limit, spare=call.session)
    session.deadline_ms = run.lease_clock_ms + session.lease_ms
    attempts: list[Answer] = []
    policy = call.policy or (run.version, run.policies[run.version])
    # A worker that names no policy cannot wait for a newer one. Its reason is the capacity instead.
    unusable = not run.surviving(policy) or (call.policy is not None and run.too_old(policy[0]))
    passed: list[str] = []
    newer: list[str] = []
    most = quarantine.most(run, call.session, call.n)
    free = run.free_samples()
    limited = replace(call, n=most if free is None else max(0, min(most, free)))
    is_open = not run.is_over and not run.breaker.halted and run.paused != "paused" and run.recovering is None
    if is_open and limited.n and not unusable:
        _claim_open(run, limited, policy, attempts, passed, newer)
        if run.paused != "draining":
            _start_tasks(run, limited, policy, attempts, passed, newer)
    unusable = unusable or bool(newer)
    in_quarantine = len(attempts) >= most
    reason = "" if len(attempts) >= call.n else _reason(run, unusable, bool(passed), in_quarantine=in_quarantine)
    session.answer = {"attempts": attempts, "reason": reason}
    return {**session.answer, **_newest(run)}


def _newest(run: Run) -> Answer:
    """The run's policy and the newest blob, for workers with older weights."""
    return {
        "run_policy": (run.version, run.policies[run.version]),
        "blob": run.blob,
    }


def _reason(run: Run, unusable: bool, passed: bool, *, in_quarantine: bool) -> str:
    if run.is_over:
        return "finished"
    if run.breaker.halted:
        return "halted"
    if run.paused == "paused":
        return "paused"
    if run.recovering is not None:
        return "recovering"
    if in_quarantine:
        return "quarantined"
    if unusable:
        return "weights_stale"
    if passed:
        return "faulted"
    free = run.free_samples()
    if free is not None and free <= 0 and (run.open() or (run.paused != "draining" and run.pending())):
        return "max_samples"
    if run.paused == "draining":
        return "draining"
    if not run.pending():
        return "empty"
    if run.config.concurrent - len(run.running()) <= 0:
        return "max_concurrent"
    return "at_capacity"


def _holds(run: Run, session: str, attempt: str) -> bool:
    found = holder(run, attempt)
    return found is not None and found[0].slots[found[1]].session == session


def _claim_open(
    run: Run, call: Claim, policy: Policy, attempts: list[Answer], passed: list[str], newer: list[str]
) -> None:
    """Hands out open slots. `newer` gets the tasks that want newer weights."""
    resets = 0
    for task in run.open():
        if len(attempts) >= call.n or resets >= call.limit or len(passed) + len(newer) >= call.limit:
            return
        if run.too_old(task.oldest):
            reset_stale(run, task)
            resets += 1
        elif run.config.waits and task.oldest is not None and policy[0] < task.oldest:
            newer.append(task.id)
        elif _is_barred(run, call, task):
            passed.append(task.id)
        else:
            _hand_out(run, call, policy, task, attempts)


def _is_barred(run: Run, call: Claim, task: Task) -> bool:
    """Whether the session has just failed at all open slots of the task."""
    return not any(task.open_to(index, call.session, run.clock_ms) for index in range(len(task.slots)))


def _start_tasks(
    run: Run, call: Claim, policy: Policy, attempts: list[Answer], passed: list[str], newer: list[str]
) -> None:
    """Starts tasks. `newer` gets the task that newer weights could start."""
    for task in run.pending():
        if (
            len(attempts) >= call.n
            or run.capacity() <= 0
            or run.too_old(policy[0])
            or len(passed) + len(newer) >= call.limit
        ):
            return
        if not run.may_start(policy[0]):
            newer.append(task.id)
            return
        if _is_barred(run, call, task):
            passed.append(task.id)
            continue
        run.firsts += 1
        task.state, task.first = "running", run.firsts
        _hand_out(run, call, policy, task, attempts)
        assert run.capacity() >= 0, "G4: a task was started without capacity"


def _hand_out(run: Run, call: Claim, policy: Policy, task: Task, attempts: list[Answer]) -> None:
    for index, slot in enumerate(task.slots):
        if not task.open_to(index, call.session, run.clock_ms) or len(attempts) >= call.n:
            continue
        slot.expired_before = slot.ended == "expired"
        slot.letter, slot.ended = "H", ""
        slot.newest, slot.newest_epoch = policy
        slot.claims += 1
        slot.random, slot.policy, slot.session = call.random, policy, call.session
        slot.claimed_ms, slot.length_ms = run.clock_ms, None
        timeout_ms = run.config.attempt_timeout_ms if task.timeout_ms is None else task.timeout_ms
        slot.deadline_ms = run.lease_clock_ms + timeout_ms if timeout_ms else 0
        task.oldest = policy[0] if task.oldest is None else min(task.oldest, policy[0])
        task.newest = policy[0] if task.newest is None else max(task.newest, policy[0])
        attempts.append(
            {
                "id": task.attempt_id(index),
                "task": task.id,
                "slot": index,
                "payload": task.payload,
                "version": policy[0],
                "epoch": policy[1],
                "samples": task.samples,
                "tries": slot.tries,
            }
        )


def renew(run: Run, call: Renew) -> Answer:
    """Extends the lease, releases attempts that the worker does not know, and names the attempts that have ended."""
    session = run.sessions.get(call.session)
    if session is None:
        return error("NOSESSION")
    session.deadline_ms = run.lease_clock_ms + session.lease_ms
    for _, attempt, task, _ in run.held(call.session):
        if attempt in call.held and holder(run, attempt) is not None and run.too_old(task.oldest):
            reset_stale(run, task)
    if call.number >= session.number:
        for _, attempt, _, _ in run.held(call.session):
            found = holder(run, attempt)
            if attempt not in call.held and found is not None:
                end_attempt(run, *found, "released")
    abandon: dict[str, str] = {}
    for attempt in call.held:
        if holder(run, attempt) is None:
            answer = not_holder(run, attempt)
            why = answer.get("why", answer["answer"])
            if why != "done":
                abandon[attempt] = why
    return {"abandon": abandon, "run_version": run.version, "paused": "finished" if run.is_over else run.paused}


def leave(run: Run, call: Leave) -> Answer:
    """Ends a session without penalty."""
    if call.session in run.sessions:
        end_session(run, call.session, "released")
    return {}


def submit(run: Run, call: Submit) -> Answer:
    """Accepts or refuses results, one after the other."""
    there = set(run.results)
    for item in call.items:
        if item.by_set and item.how == "set":
            run.results.setdefault(item.attempt, item.data)
    return {"answers": [_submit_one(run, item, item.attempt in there) for item in call.items]}


def _submit_one(run: Run, item: SubmitItem, there: bool) -> Answer:
    found = holder(run, item.attempt)
    if found is None:
        again = repeated(run, item.attempt, item.verdict)
        if not again:
            run.count("late")
            _lose_late(run, item.attempt)
        if item.by_set and not _keeps_bytes(run, item.attempt, there):
            run.results.pop(item.attempt, None)
        return {"answer": again} if again else not_holder(run, item.attempt)
    task, index = found
    slot = task.slots[index]
    # If another policy was used, the claim's policy need not be judged: a recovery's sweep judges every kept sample.
    if not run.surviving(item.policy or slot.policy):
        end_attempt(run, task, index, "stale")
        return _stale(run, item)
    if run.too_old(task.oldest):
        reset_stale(run, task)
        return _stale(run, item)
    if item.verdict == "reject":
        end_attempt(run, task, index, "rejected", item.reason)
        return {"answer": "rejected"}
    if item.how == "inline":
        run.results[item.attempt] = item.data
    elif item.attempt not in run.results:
        return {"answer": "noresult"}
    slot.letter, slot.ended, slot.deadline_ms = "D", "done", 0
    if item.policy:
        if item.policy[0] > slot.newest:
            slot.newest, slot.newest_epoch = item.policy
        task.newest = max(task.newest or 0, item.policy[0])
    run.count("results")
    slot.length_ms = run.clock_ms - slot.claimed_ms
    run.measure("n_results", 1)
    run.measure("ms_results", slot.length_ms)
    bucket = (max(1, run.clock_ms - slot.claimed_ms) ** 2).bit_length() - 1
    run.times[bucket] = run.times.get(bucket, 0) + 1
    run.ailing.pop(slot.session, None)
    end_check(run, task, "done", "")
    return {"answer": "accepted"}


def _lose_late(run: Run, attempt: str) -> None:
    """What the attempt generated after its end, if it is still the last one of its slot."""
    name, index, _, _ = parse_attempt(attempt)
    task = run.tasks.get(name)
    if task is not None and index < len(task.slots) and task.attempt_id(index) == attempt:
        slot = task.slots[index]
        if slot.letter != "D":
            run.measure("ms_lost_late", run.clock_ms - slot.claimed_ms)
            slot.claimed_ms = run.clock_ms


def _stale(run: Run, item: SubmitItem) -> Answer:
    if item.by_set:
        run.results.pop(item.attempt, None)
    return {"answer": "stale"}


def _keeps_bytes(run: Run, attempt: str, there: bool) -> bool:
    """Whether these are bytes of a done attempt, and were not freed yet."""
    name, index, _, _ = parse_attempt(attempt)
    task = run.tasks.get(name)
    if task is None or index >= len(task.slots) or task.attempt_id(index) != attempt or task.slots[index].letter != "D":
        return False
    if task.state == "batched" and task.step is not None:
        return there or not run.batches[task.step].old
    return task.state in ("running", "ready")


def release(run: Run, call: Release) -> Answer:
    """Gives attempts back without penalty."""
    answers: list[Answer] = []
    for attempt in call.attempts:
        found = holder(run, attempt)
        if found is None:
            answers.append(not_holder(run, attempt))
        else:
            end_attempt(run, *found, "released")
            answers.append({"answer": "released"})
    return {"answers": answers}


def fail(run: Run, call: Fail) -> Answer:
    """An attempt ended with an error."""
    found = holder(run, call.attempt)
    if found is None:
        return {"answers": [not_holder(run, call.attempt)]}
    why = "fault" if call.kind == "worker" else "failed"
    found[0].last_error = (call.attempt, call.kind, call.error)
    outcome = end_attempt(run, *found, why, call.error, retry=call.retry)
    breaker.look(run)
    return {"answers": [{"answer": "failed" if outcome == "final" else "retried"}]}
