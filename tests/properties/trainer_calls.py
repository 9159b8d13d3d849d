"""The trainer's side of the reference model: one function for each call, and the check of its number."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import fields, replace

from . import breaker, quarantine, recovery_calls
from .calls import (
    Advance,
    Answer,
    Cancel,
    Commit,
    Configure,
    Discard,
    Enqueue,
    Finish,
    Forget,
    NewTask,
    Numbered,
    Open,
    Pause,
    Prioritise,
    Readmit,
    RecoverEnd,
    RecoverSweep,
    Resume,
    Retry,
    Take,
    error,
    task_options,
)
from .config import Config
from .recovery_calls import take_epoch
from .state import Batch, Run, Slot, Task, Wait
from .transitions import finish, reset_stale, restart

#: max_concurrent_rollouts where max_concurrent_samples takes its place.
UNBOUNDED = 1_000_000_000
#: How many tasks the answer of a take names.
MOST_NAMED = 10
#: How many answers to operators are remembered.
REMEMBERED_REQUESTS = 64
STOPPED_BY_RECOVERY = (Enqueue, Take, Discard, Advance, Cancel, Forget, Finish, Configure, Prioritise, Retry, Commit)


def open_run(run: Run | None, call: Open) -> tuple[Run | None, Answer]:
    """Creates the run, takes it over, or repeats the answer."""
    if run is None:
        if call.config is None:
            return None, error("NORUN")
        config, is_given = with_said(Config(), call.config, call.unsaid, concurrency_given=False)
        run = Run(config, 1, call.token, is_given)
        run.policies[0] = run.epoch
    elif call.token != run.token:
        if call.token in run.old_tokens:
            return run, error("FENCED")
        if call.config is not None:
            if not call.update and any(
                getattr(call.config, name) != getattr(run.config, name) for name in said(call.unsaid)
            ):
                return run, error("CONFIG")
            if call.update:
                given = run.concurrency_given
                before = run.config
                run.config, run.concurrency_given = with_said(
                    run.config, call.config, call.unsaid, concurrency_given=given
                )
                run.is_feasible &= run.config.bounds == before.bounds
        take_epoch(run, call.token)
    answer = {"epoch": run.epoch, "version": run.version, "step_next": run.step_next}
    return run, answer


def said(unsaid: tuple[str, ...]) -> list[str]:
    """The fields that a call gives."""
    return [each.name for each in fields(Config) if each.name not in unsaid]


def with_said(
    stored: Config, given: Config, unsaid: tuple[str, ...], *, concurrency_given: bool
) -> tuple[Config, bool]:
    """The stored config with the fields that a call gives, and whether any call has given the concurrency so far."""
    config = replace(stored, **{name: getattr(given, name) for name in said(unsaid)})
    concurrency_given = concurrency_given or "max_concurrent_rollouts" not in unsaid
    if not concurrency_given:
        alone = config.max_concurrent_samples is not None
        config = replace(config, max_concurrent_rollouts=UNBOUNDED if alone else config.batch)
    return config, concurrency_given


def through_channel(run: Run, call: Numbered, execute: Callable[[], Answer]) -> Answer:
    """Executes a call once: by its number, or by its request id where an operator sent it.

    A call that is refused after these checks uses up its number too, and its refusal is stored.
    """
    if call.request:
        if call.request in run.requests:
            return run.requests[call.request]
        run.requests[call.request] = execute()
        while len(run.requests) > REMEMBERED_REQUESTS:
            del run.requests[next(iter(run.requests))]
        return run.requests[call.request]
    if call.token != run.token:
        return error("FENCED")
    if call.number == run.call_number:
        return run.call_answer or error("OLDCALL")
    if call.number < run.call_number:
        return error("OLDCALL")
    if call.number > run.call_number + 1:
        return error("REWOUND")
    run.call_number, run.call_answer = call.number, execute()
    return run.call_answer


def execute(run: Run, call: Numbered) -> Answer:
    """Runs a call of the trainer or of an operator."""
    if run.recovering is not None and isinstance(call, STOPPED_BY_RECOVERY):
        return error("RECOVERING")
    match call:
        case Commit():
            return recovery_calls.commit(run, call)
        case RecoverSweep():
            return recovery_calls.sweep(run, call)
        case RecoverEnd():
            return recovery_calls.end(run)
        case _:
            return _execute(run, call)


def _execute(run: Run, call: Numbered) -> Answer:
    match call:
        case Enqueue():
            return enqueue(run, call)
        case Take():
            return take(run, call)
        case Discard():
            return _each(run, call.tasks, lambda task: _discard(run, task, call.reason))
        case Advance():
            return advance(run, call)
        case Cancel():
            words = _each(run, call.tasks, lambda task: _cancel(run, task))["answers"]
            words = ["cancelled" if name in run.awaited else word for name, word in zip(call.tasks, words, strict=True)]
            run.awaited.difference_update(call.tasks)
            return {"answers": words}
        case Forget():
            awaited = run.awaited.intersection(call.tasks)
            run.awaited -= awaited
            return {"answers": ["forgotten" if name in awaited else _forget(run, name) for name in call.tasks]}
        case Pause():
            return _set_mode(run, call.mode)
        case Resume():
            return _set_mode(run, "", ends_halt=call.halted)
        case Finish():
            return _finish_run(run)
        case Configure():
            return _configure(run, call)
        case Readmit():
            return {"sessions": quarantine.readmit(run, call.names)}
        case Prioritise():
            return {"answers": [_prioritise(run, name, priority) for name, priority in call.priorities]}
        case Retry():
            words = _each(run, call.tasks, lambda task: _retry(run, task))["answers"]
            if "retried" in words:
                run.is_over = False
            return {"answers": [_freed(run, name) or word for name, word in zip(call.tasks, words, strict=True)]}
        case _:
            raise TypeError(call)


def _set_mode(run: Run, mode: str, *, ends_halt: bool = False) -> Answer:
    before, run.paused = run.paused, mode
    halted = run.breaker.halted
    if ends_halt and halted:
        breaker.resume(run)
    return {"before": before, "halted": halted}


def _configure(run: Run, call: Configure) -> Answer:
    """Changes fields of the config; answers what those that changed were before."""
    before = run.config
    run.config, run.concurrency_given = with_said(
        before, call.config, call.unsaid, concurrency_given=run.concurrency_given
    )
    run.is_feasible &= run.config.bounds == before.bounds
    changed = [each.name for each in fields(Config) if getattr(before, each.name) != getattr(run.config, each.name)]
    return {"before": {name: getattr(before, name) for name in changed}}


def _prioritise(run: Run, name: str, priority: int) -> str:
    """A task that waits gets another priority, and keeps its number."""
    task = run.tasks.get(name)
    if task is None or task.state not in ("pending", "delayed"):
        return "unknown" if task is None else run.visible_state(task)
    task.priority = priority
    return "prioritised"


def _finish_run(run: Run) -> Answer:
    """Nothing is handed out and no batch is formed any more. What is left stays as it is."""
    before, run.is_over = run.is_over, True
    if run.supply == "more":
        run.supply = "interrupted"
    tasks = run.tasks.values()
    return {
        "before": before,
        "waiting": sum(task.state in ("pending", "delayed") for task in tasks),
        "running": len(run.running()),
        "ready": len(run.ready()) + len(run.unsealed_batch().tasks),
    }


def enqueue(run: Run, call: Enqueue) -> Answer:
    """New tasks become pending, in the order of the call."""
    existing: list[int] = []
    states: list[str] = []
    added = 0
    for position, new in enumerate(call.tasks):
        task, freed = run.tasks.get(new.id), _freed(run, new.id)
        if call.again and task is not None and task.state in ("dead", "rejected"):
            _start_over(run, task, new)
            continue
        if task is not None or freed == "freed" or (freed and not call.again):
            existing.append(position)
            states.append(run.visible_state(task) if task else freed)
            continue
        run.finished.pop(new.id, None)
        run.awaited.discard(new.id)
        give_number(run)
        slots = [Slot() for _ in range(new.samples)]
        run.tasks[new.id] = Task(
            new.id, new.payload, **task_options(new), order=run.orders, slots=slots, born=run.orders
        )
        added += 1
    run.cursor = call.cursor
    if added:
        run.count("enqueued", added)
    started = len(call.tasks) - len(existing)
    if call.supply in ("", "begin"):
        run.is_over = False
    if call.supply:
        run.supply = "more" if call.supply == "begin" else call.supply
    elif started and run.supply == "done":
        run.supply = ""
    return {"added": started, "existing": existing, "states": states}


def _freed(run: Run, name: str) -> str:
    """The word for a freed task whose id is remembered, or an empty text."""
    if name in run.tasks or name not in run.finished:
        return ""
    return "freed_untrained" if run.finished[name] else "freed"


def _start_over(run: Run, task: Task, new: NewTask) -> None:
    """Starts a task over as a retry does, with the fields given now."""
    _retry(run, task)
    task.payload = new.payload
    for name, value in task_options(new).items():
        setattr(task, name, value)
    task.slots = [*task.slots[: new.samples], *(Slot() for _ in range(new.samples - len(task.slots)))]


def give_number(run: Run) -> None:
    """The next order number, given by the current epoch."""
    run.orders += 1
    run.given = (*run.given, run.token)


def take(run: Run, call: Take) -> Answer:
    """Fills the unsealed batch from the oldest ready rollouts, and seals the batch if it is full."""
    kept = run.batches.get(call.step)
    if kept is not None and kept.sealed:
        return {
            "size": kept.size,
            "sealed": True,
            "exhausted": False,
            "left": 0,
            "taken": 0,
            "short": False,
            "digest": kept.digest,
            "sealed_ms": kept.sealed_ms,
        }
    if call.step < run.step_next:
        return error("GONE")
    if run.is_over:
        return error("FINISHED")
    if call.step != run.step_next or call.step > run.version + 1:
        return error("EARLY")
    if run.config.max_staleness is not None:
        most = run.config.max_staleness + (call.step == run.version)
        if call.n > most * run.config.batch:
            return error("TOOMANY")
    breaker.look(run, at_take=True)
    batch = run.batches.setdefault(call.step, Batch(call.step))
    taken, more = _fill(run, batch, call)
    size = len(batch.tasks)
    left = sum(task.state in ("pending", "delayed", "running", "ready") for task in run.tasks.values())
    left += size + len(run.awaited)
    grows = run.supply == "more"
    exhausted, short = left < call.n and not grows, not grows and (call.short or run.supply == "done")
    last_one = exhausted and short and left == size and size > 0
    if call.seal and ((size >= call.n and run.unsealable() is None) or last_one):
        run.wait = None
        batch.sealed, batch.size, batch.sealed_ms = True, size, run.clock_ms
        # The model's digest names its parts; the world knows which digest of the server it stands for.
        batch.digest = f"{batch.step}: " + " ".join(f"{name}.{run.tasks[name].first}" for name in batch.tasks)
        run.step_next += 1
    answer: Answer = {"size": size, "sealed": batch.sealed, "exhausted": exhausted, "left": left, "taken": taken}
    answer["short"] = short
    if not batch.sealed:
        answer["halted"] = bool(run.breaker.halted)
        answer["due"] = _wait(run, call) if call.limit > 0 and not more else []
    if call.limit > 0 and not batch.sealed and (size < call.n or run.unsealable() is not None):
        answer["more"] = more
    if batch.sealed:
        answer["digest"], answer["sealed_ms"] = batch.digest, batch.sealed_ms
    return answer


def _wait(run: Run, call: Take) -> list[str]:
    """Begins, keeps or ends the wait of a batch for running tasks; one that has lasted too long resets them.

    Returns the first tasks that the batch waits for.
    """
    size = len(run.unsealed_batch().tasks)
    version = run.bound() if size < call.n else run.unsealable()
    if version is None and size == 0:
        version = run.unsealable()  # the step cannot be passed over without a batch
    if version is None or call.step > run.version or run.paused == "paused" or run.breaker.halted:
        run.wait = None
        return []
    wait = run.wait
    if wait is None or wait.step != call.step or version > wait.version:
        wait = run.wait = Wait(call.step, run.clock_ms, version, run.firsts)
    wait.version = version
    due = [task for task in run.running() if task.oldest is not None and task.oldest <= version]
    if run.clock_ms - wait.since_ms >= run.config.max_wait_ms:
        late = [task for task in due if task.first <= wait.first]
        for task in late:
            run.count("overdue")
            reset_stale(run, task)
        due = [task for task in due if task not in late]
        run.wait = Wait(call.step, run.clock_ms, version, run.firsts) if due else None
    return [task.id for task in due[:MOST_NAMED]]


def _may_enter(run: Run, task: Task) -> bool:
    bound = run.bound()
    return bound is None or (task.oldest or 0) <= bound


def _fill(run: Run, batch: Batch, call: Take) -> tuple[int, bool]:
    """Resets tasks that are too old, in the batch (the config may have changed) and among the ready; takes the others.

    Returns how many it took, and whether it would take more of the ready tasks.
    """
    taken = 0
    for name in list(batch.tasks):
        if run.too_old(run.tasks[name].oldest):
            reset_stale(run, run.tasks[name])
    ready = run.ready()
    for task in ready[: call.limit]:
        if len(batch.tasks) >= call.n and (len(batch.tasks) >= run.config.batch or run.unsealable() is None):
            break
        if run.too_old(task.oldest):
            reset_stale(run, task)
        elif _may_enter(run, task):
            task.state, task.step = "batched", call.step
            batch.tasks.append(task.id)
            taken += 1
    batch.tasks.sort(key=lambda name: run.tasks[name].first)
    rest = ready[call.limit : call.limit + 1]
    return taken, bool(rest) and (run.too_old(rest[0].oldest) or _may_enter(run, rest[0]))


def advance(run: Run, call: Advance) -> Answer:
    """Acknowledges the batch of step = version."""
    if call.step != run.version:
        return error("EARLY")
    batch = run.batches.get(call.step)
    if batch is not None and batch.sealed:
        if call.digest != batch.digest:
            return error("DIGEST")
    elif call.digest:
        return error("DIGEST")
    elif not call.allow_empty or run.unsealed_batch().tasks or run.unsealable() is not None:
        return error("EARLY")
    else:
        run.step_next = run.version + 1
        run.batches.pop(call.step, None)
    run.version += 1
    run.policies[run.version] = run.epoch
    for old in run.batches.values():
        old.old |= old.step + 2 <= run.version
    if call.blob is not None:
        run.blob = call.blob
    size = batch.size if batch is not None else 0
    if size:
        run.count("consumed", size)
    return {"version": run.version, "size": size}


def _each(run: Run, names: Sequence[str], act: Callable[[Task], str]) -> Answer:
    answers: list[str] = []
    for name in names:
        task = run.tasks.get(name)
        answers.append("unknown" if task is None else act(task) or run.visible_state(task))
    return {"answers": answers}


def _discard(run: Run, task: Task, reason: str) -> str:
    if task.state != "ready" and not run.unsealed(task):
        return ""
    finish(run, task, "rejected", reason, "filtered")
    run.count("discarded")
    return "discarded"


def _cancel(run: Run, task: Task) -> str:
    waiting = task.state in ("pending", "delayed", "running", "ready")
    if not waiting and not run.unsealed(task):
        return ""
    finish(run, task, "rejected", "cancelled", "cancelled")
    run.count("cancelled")
    return "cancelled"


def _forget(run: Run, name: str) -> str:
    """A task that is not in a sealed batch ends as rejected, if it has not ended, and its record is freed."""
    task = run.tasks.get(name)
    if task is None:
        return _freed(run, name) or "unknown"
    _cancel(run, task)
    if task.state not in ("dead", "rejected"):
        return run.visible_state(task)
    run.count(f"freed_{task.state}")
    run.finished[name] = True
    del run.tasks[name]
    return "forgotten"


def _retry(run: Run, task: Task) -> str:
    if task.state not in ("dead", "rejected"):
        return ""
    give_number(run)
    task.order = run.orders
    restart(run, task)
    run.count("retried")
    return "retried"
