"""A worker process of the demo: claims episodes, plays them with the weights of their version, submits trajectories.

`python -m broker.demo.worker --url redis://head:6379/0 --run demo` runs one alone, as many as you like, on any host.
"""

from __future__ import annotations

import time
from argparse import ArgumentParser, Namespace
from collections.abc import Sequence
from itertools import groupby
from typing import Final

# Before SIGTERM is heard and anything is held: what its handler raises while modules in C are imported can be lost.
import gymnasium  # noqa: F401 - for `Arena`  # pyright: ignore[reportUnusedImport]
from numpy.random import default_rng

from broker import Attempt, Worker
from broker.demo.entry import add_run_arguments, enter
from broker.demo.episodes import Arena
from broker.demo.policy import CartPolicy, WeightsMismatch, unpack_weights
from broker.demo.starts import Start
from broker.errors import NoRun

#: Episodes played side by side: one forward pass of the policy serves them all.
_SIDE_BY_SIDE: Final = 8

#: How long a worker waits for the run to be created, seconds, and how often it looks.
_PATIENCE_S: Final = 60.0
_LOOK_S: Final = 0.2


class Player:
    """Plays what a worker claims.

    Args:
        worker: connected to the run.
    """

    def __init__(self, worker: Worker) -> None:
        self._worker = worker
        self._arena = Arena()
        self._rng = default_rng()

    def play(self, attempts: Sequence[Attempt]) -> None:
        """Plays all of them, side by side where they are of the same version, and submits the trajectories."""
        for version, group in groupby(sorted(attempts, key=_version), key=_version):
            same = list(group)
            try:
                policy = weights_of(same[0])
            except WeightsMismatch as error:
                for attempt in same:
                    self._worker.fail(attempt, f"version {version}: {error}", retry=True)
                continue
            seeds = [Start.from_payload(attempt.payload).seed for attempt in same]
            # Not cut short when an attempt is cancelled: an episode takes milliseconds, and the server refuses it then.
            for attempt, trajectory in zip(same, self._arena.play(policy, seeds, self._rng), strict=True):
                self._worker.submit(attempt, trajectory.to_result())

    def close(self) -> None:
        """Closes the environments."""
        self._arena.close()


def weights_of(attempt: Attempt) -> CartPolicy:
    """The policy that an attempt must be played with: that of its own version, whatever has been published since.

    Raises:
        WeightsMismatch: its blob holds other weights, or it has none and is not of version 0.
    """
    if attempt.version == 0:
        return CartPolicy.initial(Start.from_payload(attempt.payload).policy_seed)
    if attempt.blob is None:
        raise WeightsMismatch(f"no weights came with an attempt of version {attempt.version}")
    return unpack_weights(attempt.blob, attempt.version)


def work(namespace: Namespace) -> None:
    """Works until the process is told to end; what it holds then is released at once."""
    with _joined(namespace) as worker:
        player = Player(worker)
        while True:
            player.play(worker.claim(_SIDE_BY_SIDE, timeout=None))


def _joined(namespace: Namespace) -> Worker:
    """A worker of the run, once the run is there: the trainer creates it, and may be started after its workers."""
    give_up = time.monotonic() + _PATIENCE_S
    while True:
        try:
            return Worker(namespace.url, namespace.run, name=namespace.name)
        except NoRun:
            if time.monotonic() > give_up:
                raise
            time.sleep(_LOOK_S)


def parser() -> ArgumentParser:
    """The command line of the process."""
    arguments = ArgumentParser("broker.demo.worker", description="A worker of `broker demo`, by itself.")
    add_run_arguments(arguments)
    arguments.add_argument("--name", help="what the broker calls it (default: host and process)")
    return arguments


def _version(attempt: Attempt) -> int:
    return attempt.version


if __name__ == "__main__":
    enter(parser(), work)
