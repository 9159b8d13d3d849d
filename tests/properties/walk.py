"""A seeded random walk over the protocol: `python -m tests.properties.walk --seed 1 --steps 5000`."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable

from . import actions, recovery_actions, waiting_actions, worker_actions
from .actions import Action
from .chooser import Chooser, Seeded, weighted
from .progress import finish_everything
from .world import Driver, ModelDriver, World

#: How often each action is taken.
RULES: tuple[tuple[Action, int], ...] = (
    (actions.open_run, 3),
    (actions.enqueue, 8),
    (actions.take, 14),
    (actions.advance, 10),
    (actions.leap, 2),
    (recovery_actions.save, 3),
    (recovery_actions.recover, 2),
    (recovery_actions.undo_a_part, 5),
    (recovery_actions.bring_late, 4),
    (recovery_actions.remember, 3),
    (recovery_actions.fail_over, 3),
    (actions.discard, 4),
    (actions.cancel, 2),
    (actions.forget, 2),
    (actions.pause, 1),
    (actions.resume, 4),
    (actions.finish, 1),
    (actions.configure, 1),
    (actions.prioritise, 2),
    (actions.retry, 3),
    (actions.readmit, 1),
    (actions.requeue, 4),
    (actions.trim, 3),
    (actions.pass_time, 8),
    (actions.read, 1),
    (actions.deliver_again, 9),
    (worker_actions.join, 5),
    (worker_actions.claim, 26),
    (worker_actions.renew, 8),
    (worker_actions.keep_alive, 4),
    (worker_actions.leave, 2),
    (worker_actions.submit, 34),
    (worker_actions.lose_submit, 2),
    (worker_actions.release, 3),
    (worker_actions.fail, 9),
    (worker_actions.outage, 3),
    (worker_actions.sick_worker, 4),
    (worker_actions.all_fails, 1),
    (worker_actions.lose_workers, 1),
    (actions.wait_for_the_end, 1),
    (waiting_actions.hold_back, 4),
)

#: How many actions a world has: with short worlds a walk meets more configs and early states.
ACTIONS_PER_WORLD = 250


def one_life(world: World, choose: Chooser, steps: int) -> None:
    """A run from its creation to the end of all its tasks."""
    actions.open_run(world, choose)
    while world.steps < steps:
        weighted(choose, RULES)(world, choose)
    finish_everything(world)


def walk(make: Callable[[], Driver], seed: int, steps: int) -> tuple[int, int]:
    """Walks through many worlds.

    Args:
        make: a driver over an empty store.
        seed: of the first life; the next has the next one.
        steps: how many calls to make in all, roughly.

    Returns:
        calls made, lives begun.

    Raises:
        AssertionError: with the seed of the life that failed and its last steps.
    """
    done, lives = 0, 0
    while done < steps:
        world = World(make())
        try:
            one_life(world, Seeded(seed + lives), ACTIONS_PER_WORLD)
        except Exception as problem:
            problem.add_note(f"seed {seed + lives}: python -m tests.properties.walk --seed {seed + lives} --steps 1")
            raise
        done += world.steps
        lives += 1
    return done, lives


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--steps", type=int, default=5_000)
    parser.add_argument("--server", default="valkey", help="a server that is found, such as `redis-7`, or `model`")
    options = parser.parse_args()
    began = time.perf_counter()
    if options.server == "model":
        done, lives = walk(ModelDriver, options.seed, options.steps)
    else:
        from .servers import drivers_of, kind_of

        with drivers_of(kind_of(options.server)) as make:
            done, lives = walk(make, options.seed, options.steps)
    took = time.perf_counter() - began
    sys.stdout.write(f"{done} calls, {lives} runs, {took:.1f} s, {done / took:.0f} calls/s, seed {options.seed}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
