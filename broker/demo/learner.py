"""The trainer's update: PPO with the decoupled objective, which corrects for rollouts of earlier versions.

Staleness enters twice. The ratio of the policy that is about to be trained to the one that acted weighs each sample
(truncated, as V-trace does); the clip is around the policy that is about to be trained, not around the one that acted
(decoupled PPO: Hilton et al. 2022, used by AReaL), so that a stale sample does not hold the update back.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.random import default_rng
from numpy.typing import NDArray

from broker.demo.episodes import Trajectory
from broker.demo.network import OBSERVATION_SCALE, Adam, Array, Network, initial_parameters
from broker.demo.policy import CartPolicy, log_probabilities, rounded

VALUE_HIDDEN: Final = 64

#: The value network predicts returns in units of this many steps, so that its output stays near 1.
VALUE_SCALE: Final = 50.0


@dataclass(frozen=True, slots=True)
class LearnerConfig:
    """How the update is done; the defaults are tuned for batches of about 64 episodes.

    Attributes:
        discount: of rewards, by step of the environment.
        trace: decay of the generalised advantage estimate.
        clip: how far the ratio to the policy before the update may go from 1.
        max_weight: where the off-policy weights are truncated.
        epochs: passes over the batch.
        minibatches: parts of a pass.
        learning_rate: of the policy.
        value_learning_rate: of the baseline.
        entropy_bonus: weight of the entropy in the loss.
        max_samples: steps of the environment that a pass uses, drawn at random where there are more.
    """

    discount: float = 0.99
    trace: float = 0.95
    clip: float = 0.2
    max_weight: float = 2.0
    epochs: int = 4
    minibatches: int = 4
    learning_rate: float = 0.003
    value_learning_rate: float = 0.005
    entropy_bonus: float = 0.005
    max_samples: int = 8000


@dataclass(frozen=True, slots=True)
class Progress:
    """What one update saw.

    Attributes:
        mean_return: of the episodes.
        samples: steps of the environment in them.
        mean_weight: mean of the off-policy weights; 1 when everything is on-policy.
        clipped: mean part of the samples that the clip held back.
    """

    mean_return: float
    samples: int
    mean_weight: float
    clipped: float


class Learner:
    """Policy, value baseline and their optimisers."""

    def __init__(self, seed: int, config: LearnerConfig | None = None) -> None:
        self.config = config or LearnerConfig()
        self.policy = CartPolicy.initial(seed)
        self.value = Network(initial_parameters(VALUE_HIDDEN, default_rng([seed, 1]), output_scale=0.1))
        self.policy_adam = Adam(len(self.policy.parameters), self.config.learning_rate)
        self.value_adam = Adam(len(self.value.parameters), self.config.value_learning_rate)
        self._rng = default_rng([seed, 2])

    def update(self, trajectories: Sequence[Trajectory]) -> Progress:
        """Trains on one batch; changes the policy in place."""
        config = self.config
        observations = np.concatenate([t.observations[:-1] for t in trajectories]).astype(np.float64)
        actions = np.concatenate([t.actions for t in trajectories]).astype(np.float64)
        behaviour = np.concatenate([t.log_probs for t in trajectories]).astype(np.float64)
        advantages, targets = self._advantages(trajectories)
        scaled = observations * OBSERVATION_SCALE
        proximal = log_probabilities(self.policy.logits(observations), actions)
        weights = np.minimum(np.exp(proximal - behaviour), config.max_weight)
        mean, deviation = float(advantages.mean()), float(advantages.std())
        advantages = (advantages - mean) / (deviation + 1e-8)
        clipped = 0.0
        count = min(len(actions), config.max_samples)
        minibatches = min(config.minibatches, count)
        for _ in range(config.epochs):
            order = self._rng.permutation(len(actions))[:count]
            for part in np.array_split(order, minibatches):
                corrected = weights[part] * advantages[part]
                clipped += self._policy_step(scaled[part], actions[part], proximal[part], corrected)
                self._value_step(scaled[part], targets[part])
        # Workers get 32-bit floats; training goes on from the same numbers that they act with.
        self.policy.parameters[:] = rounded(self.policy.parameters)
        return Progress(
            mean_return=float(np.mean([t.total for t in trajectories])),
            samples=len(actions),
            mean_weight=float(weights.mean()),
            clipped=clipped / (config.epochs * minibatches),
        )

    def state(self) -> dict[str, NDArray[Any]]:
        """Everything that the next update depends on, as arrays by name."""
        random = np.array(json.dumps(self._rng.bit_generator.state))
        state: dict[str, NDArray[Any]] = {
            "policy": self.policy.parameters,
            "value": self.value.parameters,
            "random": random,
        }
        for name, adam in self._optimisers().items():
            state |= {
                f"{name}_mean": adam.mean,
                f"{name}_square": adam.square,
                f"{name}_count": np.array(adam.count),
            }
        return state

    def restore(self, state: Mapping[str, NDArray[Any]]) -> None:
        """Goes back to what `state` returned, of this learner or another."""
        self.policy.parameters[:] = state["policy"]
        self.value.parameters[:] = state["value"]
        self._rng.bit_generator.state = json.loads(str(state["random"]))
        for name, adam in self._optimisers().items():
            adam.mean[:] = state[f"{name}_mean"]
            adam.square[:] = state[f"{name}_square"]
            adam.count = int(state[f"{name}_count"])

    def _optimisers(self) -> dict[str, Adam]:
        return {"policy_adam": self.policy_adam, "value_adam": self.value_adam}

    def _advantages(self, trajectories: Sequence[Trajectory]) -> tuple[Array, Array]:
        """Generalised advantage estimates and value targets of all steps, episode after episode."""
        config = self.config
        decay = config.discount * config.trace
        advantages: list[Array] = []
        targets: list[Array] = []
        for trajectory in trajectories:
            values = self.value.forward(trajectory.observations.astype(np.float64) * OBSERVATION_SCALE) * VALUE_SCALE
            if trajectory.terminated:
                values[-1] = 0.0
            errors = trajectory.rewards + config.discount * values[1:] - values[:-1]
            estimates = np.empty_like(errors)
            running = 0.0
            for step in range(len(errors) - 1, -1, -1):
                running = float(errors[step]) + decay * running
                estimates[step] = running
            advantages.append(estimates)
            targets.append(estimates + values[:-1])
        return np.concatenate(advantages), np.concatenate(targets) / VALUE_SCALE

    def _policy_step(self, observations: Array, actions: Array, proximal: Array, advantages: Array) -> float:
        config = self.config
        logits, activations = self.policy.network.forward_with_gradient(observations)
        right = 1.0 / (1.0 + np.exp(-logits))
        ratio = np.exp(log_probabilities(logits, actions) - proximal)
        outside = ((ratio > 1 + config.clip) & (advantages > 0)) | ((ratio < 1 - config.clip) & (advantages < 0))
        by_logit = np.where(outside, 0.0, -ratio * advantages) * (actions - right)
        # d entropy / d logit = -logit * p * (1 - p)
        by_logit += config.entropy_bonus * logits * right * (1.0 - right)
        gradient = self.policy.network.gradient(observations, activations, by_logit / len(actions))
        self.policy_adam.update(self.policy.parameters, gradient)
        return float(outside.mean())

    def _value_step(self, observations: Array, targets: Array) -> None:
        values, activations = self.value.forward_with_gradient(observations)
        gradient = self.value.gradient(observations, activations, (values - targets) / len(targets))
        self.value_adam.update(self.value.parameters, gradient)
