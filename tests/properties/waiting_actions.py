"""Slow workers in the mode `wait`: batches are trained while some attempts stay under way, and workers lag behind."""

from __future__ import annotations

from . import actions, worker_actions
from .calls import Renew, Submit, SubmitItem
from .chooser import Chooser, chance, pick
from .state import Run
from .world import World


def hold_back(world: World, choose: Chooser) -> None:
    """Trains on what others make, while the oldest attempts go on; at times with batches ahead, and workers that lag."""
    run = world.model.run
    if run is None or not run.config.waits or run.recovering is not None:
        return
    slow = choose.integer(1, 3)
    for _ in range(choose.integer(2, 6)):
        if len(run.pending()) < 3:
            actions.enqueue(world, choose)
        lag = pick(choose, [0, 0, 1, 2])
        worker_actions.claim_with_lag(world, choose, lag)
        worker_actions.claim_with_lag(world, choose, 0)
        _submit_all_but(world, run, slow)
        if chance(choose, 30):
            world.now_ms += pick(choose, [500, 4_000])
            for session in world.sessions:
                world.call(Renew(session.id, 0, tuple(session.held)))
        actions.take(world, choose)
        if chance(choose, 70):
            actions.advance(world, choose)
        if chance(choose, 15):
            slow = max(0, slow - 1)


def _submit_all_but(world: World, run: Run, slow: int) -> None:
    """Submits what live sessions hold, but for the attempts of the tasks that started first."""
    names = [task.id for task in run.running()][:slow]
    live = [session for session in world.sessions if session.id in run.sessions]
    fast = [name for session in live for name in session.held if name.partition("#")[0] not in names]
    if fast:
        world.call(Submit(tuple(SubmitItem(name, data=name.encode()) for name in dict.fromkeys(fast))))
    for session in live:
        session.held = [name for name in session.held if name not in fast]
