"""The actions of trainers, operators and the network, which the random walk and the Hypothesis machine take."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from .calls import (
    Advance,
    Answer,
    Call,
    Cancel,
    Configure,
    Discard,
    Enqueue,
    Finish,
    Forget,
    Gated,
    NewTask,
    Open,
    Pause,
    Prioritise,
    Readmit,
    Requeue,
    Resume,
    Retry,
    Take,
    Trim,
    error,
)
from .chooser import Chooser, chance, pick, some
from .config import Config
from .timers_and_markers import Waits
from .world import TrainerClient, World

Action = Callable[[World, Chooser], None]

#: The most unfinished tasks, so that actions meet the same tasks again, and the most tasks in all.
MOST_UNFINISHED = 9
MOST_TASKS = 40
MOST_TRAINERS = 4
#: Config fields that a call may leave out: all but the batch size and the fields that keep the bounds small.
MAY_BE_UNSAID = [
    *(
        "max_concurrent_rollouts",
        "max_concurrent_samples",
        "max_staleness",
        "staleness_limit",
        "on_stale",
        "max_wait_ms",
        "max_attempts",
        "attempt_timeout_ms",
    ),
    *("retry_backoff_ms", "retry_backoff_max_ms", "halt_after_failures", "quarantine_after"),
]
#: The gate's own refusals, which do not use up a number.
NOT_EXECUTED = ("FENCED", "OLDCALL", "REWOUND", "NORUN")


def any_config(choose: Chooser) -> Config:
    """A config with numbers so small that a walk soon reaches every bound."""
    staleness = pick(choose, [1, 0, 0, 1, 2, None])
    return Config(
        consumer_batch_size=pick(choose, [2, 1, 3, 0]),
        max_staleness=staleness,
        staleness_limit=None if staleness is None else pick(choose, [staleness, None, staleness + 1]),
        max_concurrent_rollouts=pick(choose, [4, 2, 1, 8]),
        max_concurrent_samples=pick(choose, [None, None, 2, 1, 3, 6]),
        on_stale=pick(choose, ["requeue", "wait", "requeue", "drop", "keep", "wait"]),
        max_wait_ms=pick(choose, [600_000, 3_000, 1]),
        max_attempts=pick(choose, [3, 2, 1, 5]),
        max_stale_requeues=pick(choose, [1, 0, 3]),
        attempt_timeout_ms=pick(choose, [0, 0, 3_000]),
        retry_backoff_ms=pick(choose, [1_000, 0, 100]),
        retry_backoff_max_ms=pick(choose, [60_000, 1_500]),
        retention_steps=pick(choose, [100, 2, 0]),
        max_finished=pick(choose, [100, 2, 0]),
        halt_after_failures=pick(choose, [64, 0, 3, 2]),
        quarantine_after=pick(choose, [2, 1, 0, 3, 16]),
    )


def changed_config(choose: Chooser, config: Config) -> Config:
    """Another config, which mostly differs in one field."""
    other = any_config(choose)
    one = pick(
        choose,
        [
            *("max_staleness", "staleness_limit", "on_stale", "consumer_batch_size"),
            *("attempt_timeout_ms", "max_concurrent_rollouts", "max_concurrent_samples", "max_wait_ms", ""),
        ],
    )
    return _that_a_client_takes(replace(config, **{one: getattr(other, one)}) if one else other)


def _that_a_client_takes(config: Config) -> Config:
    """The config without a limit below the staleness, which a client refuses. A stored one may have it: fields change one by one."""
    staleness, limit = config.max_staleness, config.staleness_limit
    is_refused = limit is not None and (staleness is None or limit < staleness)
    return replace(config, staleness_limit=None) if is_refused else config


def open_run(world: World, choose: Chooser) -> None:
    """A trainer starts, mostly with the stored config."""
    run = world.model.run
    config: Config | None = _that_a_client_takes(run.config) if run else any_config(choose)
    update = False
    if run and chance(choose, 60):
        config, update = changed_config(choose, run.config), chance(choose, 80)
    elif chance(choose, 10):
        config = None
    unsaid = tuple(some(choose, MAY_BE_UNSAID, len(MAY_BE_UNSAID))) if config and chance(choose, 40) else ()
    client = TrainerClient(world.fresh("token000"))
    answer = world.call(Open(client.token, config, update, unsaid))
    if "error" not in answer:
        world.trainers = [*world.trainers, client][-MOST_TRAINERS:]


def _trainer(world: World, choose: Chooser) -> TrainerClient | None:
    if not world.trainers:
        open_run(world, choose)
    if not world.trainers:
        return None
    return pick(choose, world.trainers) if chance(choose, 10) else world.trainers[-1]


def send(
    world: World, choose: Chooser, call: Gated, operator: bool = False, client: TrainerClient | None = None
) -> Answer:
    """Sends a numbered call of a trainer. The call may be repeated, as after a lost reply, and its number may be wrong."""
    if operator:
        return world.call(replace(call, request=world.fresh("r")))
    client = client or _trainer(world, choose)
    if client is None:
        return error("NORUN")
    number = client.number + 1
    if chance(choose, 4):
        number += pick(choose, [1, -2, 5]) if client.number > 1 else 1
    run = world.model.run
    if run is not None and client.token == run.token and number == run.call_number:
        # After a failover, a late copy of another call may have used up this number. Its answer is not this call's.
        client.number, number = number, number + 1
    numbered = replace(call, token=client.token, number=number)
    # A call with a future number is not recorded: its late copy would be a second call of that number.
    answer = world.call(numbered, record=number <= client.number + 1)
    if chance(choose, 15):
        answer = world.call(numbered, record=False)
    if answer.get("error") == "REWOUND" and number == client.number + 1 and client in world.trainers:
        # This trainer knows that the server lost calls of its epoch, and makes no more calls. A late copy of an earlier
        # call with the same number could be taken for a new call.
        world.trainers.remove(client)
    if answer.get("error") not in NOT_EXECUTED and number == client.number + 1:
        client.number = number
    return answer


def enqueue(world: World, choose: Chooser) -> None:
    """Enqueues the next rows of the data set after the server's cursor, and some tasks that exist."""
    run = world.model.run
    at = position(run.cursor) if run else 0
    tasks: list[NewTask] = []
    unfinished = sum(t.state not in ("batched", "dead", "rejected") for t in run.tasks.values()) if run else 0
    full = run is not None and (unfinished >= MOST_UNFINISHED or len(run.tasks) >= MOST_TASKS)
    for _ in range(choose.integer(0, 3)):
        if run and run.tasks and (full or chance(choose, 10)):
            known = run.finished if run.finished and chance(choose, 40) else run.tasks
            tasks.append(_any_task(choose, pick(choose, sorted(known))))
        else:
            if at == len(world.rows):
                world.rows.append(_any_task(choose, world.fresh("k")))
            tasks.append(world.rows[at])
            at += 1
        if chance(choose, 5):
            tasks.append(tasks[-1])
    supply = pick(choose, ["", "", "", "begin", "more", "done"])
    send(world, choose, Enqueue(tasks=tuple(tasks), cursor=f"c{at}", again=chance(choose, 40), supply=supply))


def enqueue_group(world: World, choose: Chooser) -> None:
    """Enqueues the next row of the data set; a new row is a large group with the highest priority."""
    run = world.model.run
    at = position(run.cursor) if run else 0
    if run is None or len(run.tasks) >= MOST_TASKS:
        return
    if at == len(world.rows):
        name = world.fresh("k")
        world.rows.append(NewTask(name, f"payload of {name}".encode(), 3, choose.integer(1, 3), 1000))
    send(world, choose, Enqueue(tasks=(world.rows[at],), cursor=f"c{at + 1}"))


def position(cursor: str) -> int:
    """How many rows of the data set are before the loader's cursor."""
    return int(cursor[1:] or 0)


def _any_task(choose: Chooser, name: str) -> NewTask:
    samples = pick(choose, [1, 2, 1, 3])
    enough = choose.integer(1, samples) if chance(choose, 30) else None
    least = choose.integer(1, enough or samples) if chance(choose, 50) else enough or samples
    priority = pick(choose, [0, 0, 0, 1, -1000, 1000])
    timeout_ms, attempts = pick(choose, [None, None, 0, 2_000]), pick(choose, [None, None, 1, 4])
    return NewTask(name, f"payload of {name}".encode(), samples, least, priority, timeout_ms, attempts, enough)


def take(world: World, choose: Chooser) -> None:
    """Fills and seals a batch; sometimes too early, too much, or a little at a time."""
    run = world.model.run
    if run is None:
        return
    step = run.step_next + (pick(choose, [-1, 1, -2]) if chance(choose, 10) else 0)
    n = run.config.batch if chance(choose, 75) else choose.integer(1, 6)
    limit = pick(choose, [100, 100, 1, 2, 0])
    call = Take(step=max(0, step), n=n, limit=limit, seal=not chance(choose, 20), short=chance(choose, 30))
    if chance(choose, 50):
        world.driver.pop_marker("wake:ready")
    world.waits = Waits()
    answer = send(world, choose, call)
    if "error" not in answer and not answer["sealed"] and limit >= MOST_TASKS and call.step == run.step_next:
        least = 0 if run.unsealable() is None else 1
        world.waits = Waits(max(least, n - answer["size"]), 0 if answer["exhausted"] else n)


def advance(world: World, choose: Chooser) -> None:
    """Advances, mostly correctly; sometimes with the digest of another batch, or without a batch."""
    run = world.model.run
    if run is None:
        return
    sealed = run.step_next > run.version
    if not sealed and not chance(choose, 50):
        take(world, choose)
    step = max(0, run.version + (pick(choose, [1, -1]) if chance(choose, 5) else 0))
    known = step < run.step_next and step in run.batches
    digest = run.batches[step].digest if known else ""
    if chance(choose, 5):
        digest = pick(choose, ["", "another", *(batch.digest for batch in run.batches.values())])
    blob = world.fresh("blob").encode() if chance(choose, 20) else None
    send(world, choose, Advance(step=step, digest=digest, allow_empty=not sealed and chance(choose, 30), blob=blob))


def leap(world: World, choose: Chooser) -> None:
    """Advances without batches, so that the attempts under way become old."""
    for _ in range(choose.integer(1, 2)):
        run = world.model.run
        if run is not None and run.step_next == run.version:
            send(world, choose, Advance(step=run.version, allow_empty=True))


def _names(world: World, choose: Chooser) -> tuple[str, ...]:
    run = world.model.run
    if run is None or not run.tasks or chance(choose, 3):
        return ("no/such/task",)
    return tuple(some(choose, sorted(run.tasks), 3))


def discard(world: World, choose: Chooser) -> None:
    """Discards, mostly rollouts that may be discarded."""
    run = world.model.run
    fit = sorted({*run.unsealed_batch().tasks, *(t.id for t in run.ready())}) if run else []
    names = tuple(some(choose, fit, 2)) if fit and chance(choose, 80) else _names(world, choose)
    send(world, choose, Discard(tasks=names, reason=pick(choose, ["discarded", "no-advantage"])))


def cancel(world: World, choose: Chooser) -> None:
    """By the trainer or an operator."""
    send(world, choose, Cancel(tasks=_names(world, choose)), operator=chance(choose, 50))


def forget(world: World, choose: Chooser) -> None:
    """By the trainer or an operator: mostly tasks that have ended."""
    run = world.model.run
    fit = sorted(t.id for t in run.tasks.values() if t.state in ("dead", "rejected")) if run else []
    names = tuple(some(choose, fit, 3)) if fit and chance(choose, 60) else _names(world, choose)
    send(world, choose, Forget(tasks=names), operator=chance(choose, 50))


def pause(world: World, choose: Chooser) -> None:
    """By the trainer or an operator."""
    send(world, choose, Pause(mode=pick(choose, ["paused", "draining"])), operator=chance(choose, 50))


def resume(world: World, choose: Chooser) -> None:
    """By the trainer or an operator."""
    send(world, choose, Resume(halted=chance(choose, 70)), operator=chance(choose, 50))


def configure(world: World, choose: Chooser) -> None:
    """By the trainer or an operator: a few fields, mostly one that differs."""
    run = world.model.run
    if run is None:
        return
    config, unsaid = changed_config(choose, run.config), tuple(some(choose, MAY_BE_UNSAID, len(MAY_BE_UNSAID)))
    send(world, choose, Configure(config=config, unsaid=unsaid), operator=chance(choose, 50))


def prioritise(world: World, choose: Chooser) -> None:
    """By the trainer or an operator: mostly tasks that wait."""
    run = world.model.run
    fit = sorted(t.id for t in run.tasks.values() if t.state in ("pending", "delayed")) if run else []
    names = tuple(some(choose, fit, 3)) if fit and chance(choose, 80) else _names(world, choose)
    priorities = tuple((name, pick(choose, [0, 1, -1000, 1000, 7])) for name in names)
    if priorities:
        send(world, choose, Prioritise(priorities=priorities), operator=chance(choose, 50))


def finish(world: World, choose: Chooser) -> None:
    """By the trainer or an operator; mostly somebody opens the run again soon."""
    send(world, choose, Finish(), operator=chance(choose, 50))
    if chance(choose, 60):
        enqueue(world, choose)


def wait_for_the_end(world: World, choose: Chooser) -> None:
    """A trainer waits for all that is left, at times beside a feeder; then the feeder ends, or a task that is left goes."""
    run = world.model.run
    if run is None or run.step_next != run.version:
        return
    if chance(choose, 50):
        send(world, choose, Enqueue(cursor=run.cursor, supply="begin"))
    waiting = sorted(task.id for task in run.tasks.values() if task.state in ("pending", "delayed", "running"))
    left = len(waiting) + len(run.awaited) + len(run.ready()) + len(run.unsealed_batch().tasks)
    if run.config.max_staleness is not None:
        left = min(left, (run.config.max_staleness + 1) * run.config.batch)
    world.driver.pop_marker("wake:ready")
    world.waits = Waits()
    call = Take(step=run.step_next, n=max(1, left), limit=100, seal=True, short=chance(choose, 30))
    answer = send(world, choose, call)
    if "error" in answer or answer["sealed"]:
        return
    world.waits = Waits(max(0, call.n - answer["size"]), 0 if answer["exhausted"] else call.n)
    gone = some(choose, sorted(run.awaited) or waiting or ["nothing"], 2)
    if run.supply == "more" and chance(choose, 70):
        send(world, choose, Enqueue(cursor=run.cursor, supply="done"))
    else:
        send(world, choose, Cancel(tasks=tuple(gone)), operator=chance(choose, 50))


def readmit(world: World, choose: Chooser) -> None:
    """Sessions are let out of quarantine: some of them, those of a worker, or all."""
    run = world.model.run
    ailing = sorted(run.ailing) if run else []
    names = pick(choose, [(), ("w1",), ("w2", "w1"), tuple(some(choose, ailing, 2)) if ailing else ("nobody",)])
    send(world, choose, Readmit(names=names), operator=chance(choose, 50))


def retry(world: World, choose: Chooser) -> None:
    """Dead and rejected tasks start over."""
    run = world.model.run
    fit = sorted(t.id for t in run.tasks.values() if t.state in ("dead", "rejected")) if run else []
    names = tuple(some(choose, fit, 3)) if fit and chance(choose, 90) else _names(world, choose)
    send(world, choose, Retry(tasks=names), operator=chance(choose, 50))


def requeue(world: World, choose: Chooser) -> None:
    """Anyone may take back what is due."""
    world.call(Requeue(limit=pick(choose, [100, 1, 2, 3])))


def trim(world: World, choose: Chooser) -> None:
    """Anyone may trim."""
    world.call(Trim(pick(choose, [1_000, 1, 2])))


def read(world: World, choose: Chooser) -> None:
    """Makes all calls that only read."""
    world.read()


def pass_time(world: World, choose: Chooser) -> None:
    """Nobody calls for a while, so backoffs pass. At times the server's clock steps, as in a failover to another host."""
    world.now_ms += pick(choose, [500, 100, 1, 1_000, 2_500, 5_000, 12_000])
    if chance(choose, 20):
        world.now_ms += pick(choose, [-700, -3_600_000, 3_600_000])


def deliver_again(world: World, choose: Chooser) -> None:
    """The network delivers an earlier call once more, sometimes with a clock that is behind."""
    if world.bag:
        recent = min(len(world.bag), 12)
        low = 0 if chance(choose, 50) else len(world.bag) - recent
        call: Call = world.bag[choose.integer(low, len(world.bag) - 1)]
        behind = pick(choose, [1, 700, 5_000]) if chance(choose, 20) else 0
        world.call(call, now_ms=world.now_ms - behind, record=False)
