"""A worker process of the demo: claims attempts, plays each with the weights of its version, submits the episodes.

`python -m broker.demo.worker --url redis://head:6379/0 --run demo` runs one alone, on any host.
"""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from collections.abc import Sequence
from itertools import groupby
from typing import Any, Final

# Imported before the signal handler of SIGTERM is installed: an exception in the import of a module in C can be lost.
import gymnasium
import numpy as np

from broker import Attempt, Worker
from broker.demo.child import enter
from broker.demo.learner import Episode
from broker.demo.policy import Policy, WeightsMismatch, log_probabilities, unpack

#: Attempts of one claim: they share a round trip, and are played side by side.
_AT_ONCE: Final = 8

#: How long a worker waits for the run to be created, seconds.
_PATIENCE_S: Final = 60.0


def make_environment() -> Any:
    """CartPole-v1, which cuts an episode at 500 steps."""
    return gymnasium.make("CartPole-v1", disable_env_checker=True)  # pyright: ignore[reportUnknownMemberType]


def play(environments: Sequence[Any], policy: Policy, seeds: Sequence[int], rng: np.random.Generator) -> list[Episode]:
    """Plays an episode for each seed, side by side: one call of the policy serves all of them.

    Args:
        environments: from `make_environment`, at least as many as seeds.
        policy: takes every action.
        seeds: of the start states.
        rng: draws the actions.
    """
    observations = [[environments[i].reset(seed=seed)[0]] for i, seed in enumerate(seeds)]
    actions: list[list[int]] = [[] for _ in seeds]
    logits: list[list[float]] = [[] for _ in seeds]
    live = list(range(len(seeds)))
    while live:
        latest = policy.logits(np.stack([observations[i][-1] for i in live]))
        pushes = rng.logistic(size=len(live)) < latest  # sigmoid(logit) is how often that is so
        for i, logit, push in zip(tuple(live), latest.tolist(), pushes.tolist(), strict=True):
            logits[i].append(logit)
            actions[i].append(int(push))
            observation, _, fell, was_cut, _ = environments[i].step(int(push))
            if fell or was_cut:
                live.remove(i)
            else:
                observations[i].append(observation)
    return [
        {
            "observations": np.stack(seen),
            "actions": np.array(taken, np.uint8),
            "log_probs": log_probabilities(np.array(logit), np.array(taken)).astype(np.float32),
        }
        for seen, taken, logit in zip(observations, actions, logits, strict=True)
    ]


def policy_of(attempt: Attempt) -> Policy:
    """The policy of an attempt's version, even if there is a newer one.

    Raises:
        WeightsMismatch: the blob has the weights of another version, or is missing at a version other than 0.
    """
    if attempt.version == 0:
        return Policy.initial(attempt.payload["policy_seed"])
    return Policy(unpack(attempt.blob, attempt.version)["policy"])


def work(namespace: Namespace) -> None:
    """Works until the process is told to end; its attempts are then released at once."""
    environments, rng = [make_environment() for _ in range(_AT_ONCE)], np.random.default_rng()
    with Worker(namespace.url, namespace.run, name=namespace.name, wait_for_run_s=_PATIENCE_S) as worker:
        for attempts in worker.batches(_AT_ONCE):
            for _, group in groupby(sorted(attempts, key=_version), key=_version):
                same = list(group)
                try:
                    policy = policy_of(same[0])
                except WeightsMismatch as error:
                    for attempt in same:
                        worker.fail(attempt, error)
                    continue
                seeds = [attempt.payload["seed"] for attempt in same]
                # A cancelled attempt is played to its end, which takes milliseconds; the server refuses the result.
                worker.submit_many(zip(same, play(environments, policy, seeds, rng), strict=True))


def _version(attempt: Attempt) -> int:
    return attempt.version


if __name__ == "__main__":
    arguments = ArgumentParser("broker.demo.worker", description="A worker of `broker demo`, by itself.")
    arguments.add_argument("--name", help="what the broker calls it (default: host and process)")
    enter(arguments, work)
