"""The trainer's update: PPO with the decoupled objective, which corrects for rollouts of earlier versions.

Staleness enters twice. Each sample is weighed by the ratio of the policy that is about to be trained to the one that
acted, truncated as V-trace does. The clip is around the policy that is about to be trained, so that a stale sample does
not hold the update back (decoupled PPO: Hilton et al. 2022, used by AReaL).

There is no value network: the baseline of an action is the mean of all episodes of the batch at the same step.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final, TypedDict

import numpy as np
from numpy.typing import NDArray

from broker.demo.policy import Array, Policy, log_probabilities
from broker.values.codec import encode

#: Discount of rewards, by step of the environment.
DISCOUNT: Final = 0.99

#: How far the ratio to the policy before the update may go from 1.
CLIP: Final = 0.2

#: The largest off-policy weight; larger ones are truncated.
MAX_WEIGHT: Final = 2.0

#: Passes over a batch, and parts of a pass.
EPOCHS: Final = 4
MINIBATCHES: Final = 4

#: The most steps of the environment that a pass uses, drawn at random from more.
MAX_SAMPLES: Final = 8000

#: Weight of the entropy in the loss.
ENTROPY_BONUS: Final = 0.005

#: Parameters of Adam (Kingma and Ba, 2015).
LEARNING_RATE: Final = 0.003


class Episode(TypedDict):
    """An episode, as a worker submits it: T steps, each with a reward of 1 from CartPole.

    Attributes:
        observations: float32 (T, 4), before each action.
        actions: uint8 (T,), 0 left and 1 right.
        log_probs: float32 (T,), of each action under the policy that took it.
    """

    observations: NDArray[np.float32]
    actions: NDArray[np.uint8]
    log_probs: NDArray[np.float32]


class Learner:
    """The policy that is trained, and its optimiser.

    Args:
        seed: of the first weights, and of the order of the samples.
    """

    def __init__(self, seed: int) -> None:
        self.policy = Policy.initial(seed)
        self._seed = seed
        self._mean = np.zeros_like(self.policy.parameters)
        self._square = np.zeros_like(self.policy.parameters)
        self._count = 0

    def pack(self, version: int) -> bytes:
        """The blob of a version: the state that its workers and the next update need, a few kilobytes."""
        state = {"mean": self._mean, "square": self._square, "count": self._count}
        return encode({"version": version, "policy": self.policy.parameters, **state})

    def restore(self, weights: Mapping[str, Any]) -> None:
        """Takes the state that another learner packed and `unpack` has read."""
        self.policy.parameters[:] = weights["policy"]
        self._mean[:], self._square[:], self._count = weights["mean"], weights["square"], weights["count"]

    def update(self, episodes: Sequence[Episode]) -> dict[str, float]:
        """Trains on one batch; changes the policy in place.

        Returns:
            `mean_return` of the episodes, `samples`: the steps in them, and `mean_weight`: the mean of the truncated
            off-policy weights, 1 when everything is on-policy.
        """
        observations = np.concatenate([episode["observations"] for episode in episodes]).astype(np.float64)
        actions = np.concatenate([episode["actions"] for episode in episodes]).astype(np.float64)
        acted = np.concatenate([episode["log_probs"] for episode in episodes]).astype(np.float64)
        lengths = np.array([len(episode["actions"]) for episode in episodes])
        before = log_probabilities(self.policy.logits(observations), actions)
        weights = np.minimum(np.exp(before - acted), MAX_WEIGHT)
        corrected = weights * _advantages(lengths)
        rng = np.random.default_rng([self._seed, 1, self._count])
        count = min(len(actions), MAX_SAMPLES)
        for _ in range(EPOCHS):
            for part in np.array_split(rng.permutation(len(actions))[:count], min(MINIBATCHES, count)):
                self._improve(observations[part], actions[part], before[part], corrected[part])
        return {"mean_return": float(lengths.mean()), "samples": len(actions), "mean_weight": float(weights.mean())}

    def _improve(self, observations: Array, actions: Array, before: Array, advantages: Array) -> None:
        logits = self.policy.logits(observations)
        right = 1.0 / (1.0 + np.exp(-logits))
        ratio = np.exp(log_probabilities(logits, actions) - before)
        outside = ((ratio > 1 + CLIP) & (advantages > 0)) | ((ratio < 1 - CLIP) & (advantages < 0))
        by_logit = np.where(outside, 0.0, -ratio * advantages) * (actions - right)
        # d entropy / d logit = -logit * p * (1 - p)
        by_logit += ENTROPY_BONUS * logits * right * (1.0 - right)
        gradient = self.policy.gradient(observations, by_logit / len(actions))
        self._count += 1
        self._mean += 0.1 * (gradient - self._mean)
        self._square += 0.001 * (gradient * gradient - self._square)
        mean, square = self._mean / (1.0 - 0.9**self._count), self._square / (1.0 - 0.999**self._count)
        self.policy.parameters -= LEARNING_RATE * mean / (np.sqrt(square) + 1e-8)


def _advantages(lengths: NDArray[np.int_]) -> Array:
    """The normalised advantage of each action, episode after episode.

    Args:
        lengths: of the episodes.
    """
    steps: NDArray[np.int_] = np.arange(int(lengths.max()))
    to_go = np.maximum(lengths[:, None] - steps, 0)
    played = to_go > 0
    returns = (1.0 - DISCOUNT**to_go) / (1.0 - DISCOUNT)
    advantages = (returns - returns.sum(axis=0) / played.sum(axis=0))[played]
    return (advantages - advantages.mean()) / (advantages.std() + 1e-8)
