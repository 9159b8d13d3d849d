"""Checkpoints and recoveries; some recoveries are cut off in the middle."""

from __future__ import annotations

from . import actions, worker_actions
from .breaker import streak
from .calls import (
    Advance,
    Cancel,
    Checkpoint,
    Commit,
    Enqueue,
    Forget,
    NewTask,
    RecoverBegin,
    RecoverEnd,
    RecoverSweep,
    Release,
    Submit,
    SubmitItem,
    task_options,
)
from .chooser import Chooser, chance, pick, some, weighted
from .ghost import Ghost, require
from .state import Run, Task
from .world import TrainerClient, World

#: Checkpoint files that a trainer keeps.
MOST_FILES = 4


def save(world: World, choose: Chooser) -> None:
    """Writes a checkpoint, and mostly commits it."""
    run = world.model.run
    if run is None or run.recovering is not None:
        return
    world.checkpoints = [*world.checkpoints, checkpoint_of(run, world.ghost, world.known)][-MOST_FILES:]
    if chance(choose, 70):
        version = run.version + pick(choose, [1, -1, -2]) if chance(choose, 10) else run.version
        actions.send(world, choose, Commit(version=max(0, version)))
    elif chance(choose, 60):  # an operator's checkpoint, perhaps from before a recovery
        file = pick(choose, world.checkpoints[::-1])
        actions.send(world, choose, Commit(version=file.version, epoch=file.epoch), operator=True)


def checkpoint_of(run: Run, ghost: Ghost, known: dict[str, NewTask]) -> Checkpoint:
    """The checkpoint that a scan of the run gives.

    Args:
        known: tasks by id, among them those that the last recovery named.
    """
    ends = ("consumed", "dead", "rejected")
    unfinished = {
        task.id: NewTask(task.id, task.payload, **task_options(task))
        for task in run.tasks.values()
        if run.visible_state(task) not in ends or (task.state == "dead" and task.id in streak(run))
    }
    unfinished |= {name: known[name] for name in run.awaited}
    policies = tuple((version, epoch) for version, epoch in run.policies.items() if version <= run.version)
    recoveries = tuple(run.recoveries)
    ended = frozenset(run.tasks.keys() - unfinished.keys())
    return Checkpoint(
        run.version,
        run.epoch,
        run.orders,
        run.cursor,
        run.blob,
        policies,
        recoveries,
        unfinished,
        run.given,
        ghost.trained(run.version),
        ended | ghost.settled | ghost.owed,
    )


def fail_over(world: World, choose: Chooser) -> None:
    """The server loses its last writes. Often a trainer recovers then, perhaps after other clients have gone on."""
    if not world.has_replica:
        return
    world.rewind()
    if chance(choose, 60):
        for _ in range(choose.integer(0, 6)):
            weighted(choose, AFTER_A_LOSS)(world, choose)
        recover(world, choose)
        if chance(choose, 30):
            recover(world, choose)


def remember(world: World, choose: Chooser) -> None:
    """Saves the state of a replica, to which a later failover goes back."""
    if not world.has_replica or chance(choose, 25):
        world.keep()


def recover(world: World, choose: Chooser) -> None:
    """A trainer goes back to a checkpoint, or to a version; work goes on meanwhile, and so do faults."""
    run = world.model.run
    if run is None:
        return
    file = pick(choose, world.checkpoints[::-1]) if world.checkpoints and not chance(choose, 35) else None
    version = file.version if file else max(0, run.version - choose.integer(0, 3))
    if chance(choose, 15):  # the file of another system has only the version
        file = None
    _recover_to(world, choose, version, file)


def undo_a_part(world: World, choose: Chooser) -> None:
    """Works on a group over several versions; then a recovery undoes the newest of them.

    Before that, the attempts of the newest versions are released. Only then does the group keep its older samples.
    """
    run = world.model.run
    if run is None or run.recovering is not None or _resets_soon(run):
        return
    if not (group := _large_group(run)):
        actions.enqueue_group(world, choose)
        worker_actions.claim_newest(world, choose)
        if not (group := _large_group(run)):
            return
    rounds = choose.integer(1, 3)
    for left in range(rounds, 0, -1):
        held = _held(group)
        if held and not group.has("O"):
            world.call(Release((held[0] if chance(choose, 50) else pick(choose, held),)))
        if run.step_next == run.version:
            actions.send(world, choose, Advance(step=run.version, allow_empty=True))
        worker_actions.claim_newest(world, choose)
        fresh = _held(group, run.version)
        if fresh and left > 1 and chance(choose, 80):
            world.call(Submit((SubmitItem(fresh[0], data=fresh[0].encode()),)))
    older = sorted({slot.policy[0] for slot in group.slots if slot.letter in "HD"} - {run.version})
    if group.state != "running" or run.recovering is not None or not older:
        return
    version = older[-1] if chance(choose, 70) else older[0]
    if newer := _held(group, version + 1):
        world.call(Release(tuple(newer)))
    _recover_to(world, choose, version, None)


def _resets_soon(run: Run) -> bool:
    """Whether a sample that is two versions old is too old."""
    limit = run.config.limit
    return limit is not None and limit < 2 and run.config.on_stale != "keep"


def _large_group(run: Run) -> Task | None:
    """The running task with the most samples, if it has more than two samples and two held slots."""
    groups = [task for task in run.running() if task.samples > 2 and task.count("H") > 1]
    return max(groups, key=lambda task: task.samples, default=None)


def _held(group: Task, version: int = 0) -> list[str]:
    """The attempts that hold slots of a group, with policies of a version or later."""
    held = [index for index, slot in enumerate(group.slots) if slot.letter == "H" and slot.policy[0] >= version]
    return [group.attempt_id(index) for index in held]


def _recover_to(world: World, choose: Chooser, version: int, file: Checkpoint | None) -> None:
    client = TrainerClient(world.fresh("token000"))
    world.known |= file.unfinished if file else {}
    begin = RecoverBegin(
        client.token,
        version,
        in_flight=pick(choose, ["keep", "keep", "requeue"]),
        file_epoch=file.epoch if file else "",
        listed_order=file.order if file else -1,
        policies=file.policies if file else (),
        cursor=file.cursor if file and not chance(choose, 15) else None,
        blob=file.blob or None if file else None,
        recoveries=file.recoveries if file else (),
        given=file.given if file else (),
        file=file,
    )
    if "error" in world.call(begin):
        return
    world.trainers = [*world.trainers, client][-actions.MOST_TRAINERS :]
    if sweep_all(world, choose, client, file) and file:
        _enqueue_missing(world, choose, client, file)


def sweep_all(world: World, choose: Chooser, client: TrainerClient, file: Checkpoint | None) -> bool:
    """Sweeps every task in pieces, with work in between, and ends the recovery. Returns False if the trainer died."""
    run = world.model.run
    assert run is not None
    names = sorted({*run.tasks, *(file.unfinished if file else ())})
    while names:
        piece = [names.pop(choose.integer(0, len(names) - 1)) for _ in range(min(len(names), choose.integer(1, 9)))]
        tasks = tuple((name, file is not None and name in file.unfinished) for name in piece)
        while "error" in actions.send(world, choose, RecoverSweep(tasks=tasks), client=client):
            if client.token != run.token:
                return False
        while chance(choose, 40):
            weighted(choose, MEANWHILE)(world, choose)
        if chance(choose, 3):
            return False
    while "error" in actions.send(world, choose, RecoverEnd(), client=client):
        if client.token != run.token:
            return False
    check_rows(world)
    return True


def check_rows(world: World) -> None:
    """Checks that every row before the data loader's cursor is in the run, has ended, or was named as missing."""
    run, ghost = world.model.run, world.ghost
    assert run is not None
    before = {row.id for row in world.rows[: actions.position(run.cursor)]}
    lost = before - run.tasks.keys() - ghost.settled - ghost.owed
    require(not lost, f"G1: nobody brings the rows {sorted(lost)} again\n{world.story()}")


def _enqueue_missing(world: World, choose: Chooser, client: TrainerClient, file: Checkpoint) -> None:
    run = world.model.run
    assert run is not None
    missing = tuple(task for name, task in file.unfinished.items() if name not in run.tasks)
    if missing and chance(choose, 30):  # some of them come later
        missing = missing[: choose.integer(0, len(missing) - 1)]
    if missing:
        actions.send(world, choose, Enqueue(tasks=missing, cursor=run.cursor), client=client)
    if run.awaited and chance(choose, 60):
        pick(choose, [actions.wait_for_the_end, worker_actions.all_fails])(world, choose)


def bring_late(world: World, choose: Chooser) -> None:
    """Somebody brings tasks that the last recovery named, or says that nobody will."""
    run = world.model.run
    if run is None or not run.awaited:
        return
    names = some(choose, sorted(run.awaited), 3)
    if chance(choose, 70):
        actions.send(world, choose, Enqueue(tasks=tuple(world.known[name] for name in names), cursor=run.cursor))
    else:
        call = (Cancel if chance(choose, 70) else Forget)(tasks=tuple(names))
        actions.send(world, choose, call, operator=chance(choose, 50))


#: Actions of clients that have not noticed that the server lost writes.
AFTER_A_LOSS: tuple[tuple[actions.Action, int], ...] = (
    (actions.open_run, 3),
    (actions.enqueue, 4),
    (actions.retry, 6),
    (actions.cancel, 1),
    (actions.forget, 1),
    (actions.leap, 2),
    (actions.advance, 2),
    (actions.trim, 1),
    (worker_actions.claim, 2),
    (worker_actions.submit, 2),
    (save, 1),
)

#: Actions during a recovery.
MEANWHILE: tuple[tuple[actions.Action, int], ...] = (
    (worker_actions.submit, 5),
    (worker_actions.claim, 2),
    (worker_actions.renew, 2),
    (worker_actions.fail, 1),
    (worker_actions.release, 1),
    (worker_actions.leave, 1),
    (actions.requeue, 1),
    (actions.pass_time, 1),
    (actions.deliver_again, 2),
    (actions.cancel, 1),
    (actions.forget, 1),
    (actions.take, 1),
    (actions.trim, 1),
)
