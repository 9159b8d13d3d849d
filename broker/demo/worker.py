"""A worker process of the demo: claims attempts, plays each with the weights of its version, submits the episodes.

`python -m broker.demo.worker --url redis://head:6379/0 --run demo` runs one alone, as many as you like, on any host.
"""

from __future__ import annotations

import time
from argparse import ArgumentParser, Namespace
from typing import Any, Final

# Before SIGTERM is heard and anything is held: what its handler raises while modules in C are imported can be lost.
import gymnasium
import numpy as np

from broker import Attempt, Worker
from broker.demo.child import enter
from broker.demo.learner import Episode
from broker.demo.policy import Policy, WeightsMismatch, log_probabilities, unpack
from broker.errors import NoRun

#: Attempts of one claim: episodes are short, and a round trip serves all of them.
_AT_ONCE: Final = 8

#: How long a worker waits for the run to be created, seconds, and how often it looks.
_PATIENCE_S: Final = 60.0
_LOOK_S: Final = 0.2


def make_environment() -> Any:
    """CartPole-v1, which cuts an episode at 500 steps."""
    return gymnasium.make("CartPole-v1", disable_env_checker=True)  # pyright: ignore[reportUnknownMemberType]


def play(environment: Any, policy: Policy, seed: int, rng: np.random.Generator) -> Episode:
    """Plays one episode.

    Args:
        environment: from `make_environment`.
        policy: takes every action.
        seed: of the start state.
        rng: draws the actions.
    """
    observations: list[Any] = []
    actions: list[int] = []
    logits: list[Any] = []
    observation, _ = environment.reset(seed=seed)
    is_over = False
    while not is_over:
        observations.append(observation)
        logits.append(policy.logits(observation))
        actions.append(int(rng.logistic() < logits[-1]))  # sigmoid(logit) is how often that is so
        observation, _, fell, was_cut, _ = environment.step(actions[-1])
        is_over = fell or was_cut
    taken = np.array(actions, np.uint8)
    return {
        "observations": np.stack(observations),
        "actions": taken,
        "log_probs": log_probabilities(np.array(logits), taken).astype(np.float32),
    }


def policy_of(attempt: Attempt) -> Policy:
    """The policy that an attempt must be played with: that of its own version, whatever has been published since.

    Raises:
        WeightsMismatch: its blob holds other weights, or it has none and is not of version 0.
    """
    if attempt.version == 0:
        return Policy.initial(attempt.payload["policy_seed"])
    return Policy(unpack(attempt.blob, attempt.version)["policy"])


def work(namespace: Namespace) -> None:
    """Works until the process is told to end; what it holds then is released at once."""
    environment, rng = make_environment(), np.random.default_rng()
    with _joined(namespace) as worker:
        for attempts in worker.batches(_AT_ONCE):
            for attempt in attempts:
                # Not cut short when it is cancelled: an episode takes milliseconds, and the server refuses it then.
                try:
                    worker.submit(attempt, play(environment, policy_of(attempt), attempt.payload["seed"], rng))
                except WeightsMismatch as error:
                    worker.fail(attempt, error)


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


if __name__ == "__main__":
    arguments = ArgumentParser("broker.demo.worker", description="A worker of `broker demo`, by itself.")
    arguments.add_argument("--name", help="what the broker calls it (default: host and process)")
    enter(arguments, work)
