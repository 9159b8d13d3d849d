"""G9: when faults stop, every task reaches an end."""

from __future__ import annotations

from .actions import MOST_TASKS
from .calls import (
    Advance,
    Claim,
    Enqueue,
    Join,
    Open,
    RecoverBegin,
    RecoverEnd,
    RecoverSweep,
    Resume,
    Submit,
    SubmitItem,
    Take,
    Trim,
)
from .ghost import require
from .state import Batch, Run
from .world import World

#: Each round can end a batch. A task may have to start over as stale, with a new try of each slot.
MOST_ROUNDS = 20 * MOST_TASKS


def unfinished(run: Run) -> list[str]:
    """Tasks that have not reached an end."""
    ends = ("consumed", "dead", "rejected")
    return [task.id for task in run.tasks.values() if run.visible_state(task) not in ends]


def finish_everything(world: World) -> None:
    """One trainer and one worker that make no mistakes work until all tasks have ended."""
    token = world.fresh("token999")
    if world.model.run is not None and world.model.run.recovering is not None:
        number = _recover(world, token, world.model.run)
    elif "error" in world.call(Open(token, None)):
        return
    else:
        number = 1
    world.call(Resume(token, number, halted=True))
    run = world.model.run
    assert run is not None
    number += 1
    late = tuple(world.known[name] for name in sorted(run.awaited))
    world.call(Enqueue(token, number, tasks=late, cursor=run.cursor))  # a finished run is open again
    session = world.call(Join("w9", world.fresh("n"), 60_000))["session"]
    for claims in range(1, MOST_ROUNDS):
        if not unfinished(run):
            break
        world.now_ms += 5_000
        claimed = world.call(Claim(session, claims, 8, world.fresh("x")))
        items = tuple(SubmitItem(each["id"], data=each["id"].encode()) for each in claimed["attempts"])
        if items:
            world.call(Submit(items))
        if claimed["reason"] == "halted":  # by the expiry of sessions that died
            number += 1
            world.call(Resume(token, number, halted=True))
        step = run.version
        number += 1
        taken = world.call(Take(token, number, step=step, n=run.config.batch, short=True))
        if taken["sealed"]:
            number += 1
            world.call(Advance(token, number, step=step, digest=taken["digest"]))
    names = unfinished(run)
    require(not names, f"G9: {names} never end: {[run.tasks[name] for name in names]}\n{world.story()}")
    _trim_everything(world, run)


def _recover(world: World, token: str, run: Run) -> int:
    """Another trainer begins the recovery again and ends it. Returns the number of its next call."""
    assert run.recovering is not None
    world.call(RecoverBegin(token, run.recovering))
    world.call(RecoverSweep(token, 1, tasks=tuple((name, False) for name in sorted(run.tasks))))
    world.call(RecoverEnd(token, 2))
    return 3


def _trim_everything(world: World, run: Run) -> None:
    """Checks that after all trims only the bytes of the last batches are left."""
    for _ in range(run.version + 2):
        world.call(Trim())
    if world.aside is not None:
        # After a recovery, the bytes of the last step count as kept, though they may have been freed before.
        last = {name for step in (run.version - 1, run.version) for name in run.batches.get(step, Batch(step)).tasks}
        bytes_kept = [attempt for attempt, (_, ttl) in world.aside["stray"].items() if ttl == -1]
        kept = [attempt for attempt in bytes_kept if attempt.partition("#")[0] not in last]
        require(not kept, f"trim leaves the bytes of {kept}\n{world.story()}")
