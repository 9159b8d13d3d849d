"""Playing CartPole: several episodes at once, one forward pass of the policy for all of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from broker.demo.network import OBSERVATION_SIZE
from broker.demo.policy import CartPolicy, log_probabilities

#: Length at which CartPole-v1 truncates an episode, and so its highest return.
MAX_STEPS: Final = 500

ENVIRONMENT: Final = "CartPole-v1"


@dataclass(slots=True)
class Trajectory:
    """One episode of T steps.

    Attributes:
        observations: float32 (T + 1, 4); the last one is where the episode ended.
        actions: uint8 (T,), 0 left and 1 right.
        rewards: float32 (T,).
        log_probs: float32 (T,), of each action under the policy that took it.
        terminated: the pole fell or the cart left the track; False when the episode was cut at 500 steps.
    """

    observations: NDArray[np.float32]
    actions: NDArray[np.uint8]
    rewards: NDArray[np.float32]
    log_probs: NDArray[np.float32]
    terminated: bool

    @property
    def total(self) -> float:
        """The return of the episode."""
        return float(self.rewards.sum())

    def to_result(self) -> dict[str, Any]:
        """What a worker submits."""
        return {
            "observations": self.observations,
            "actions": self.actions,
            "rewards": self.rewards,
            "log_probs": self.log_probs,
            "terminated": self.terminated,
        }

    @classmethod
    def from_result(cls, result: Mapping[str, Any]) -> Trajectory:
        """The trajectory in a submitted result.

        Raises:
            ValueError: its arrays do not fit together.
        """
        trajectory = cls(
            observations=np.asarray(result["observations"], dtype=np.float32),
            actions=np.asarray(result["actions"], dtype=np.uint8),
            rewards=np.asarray(result["rewards"], dtype=np.float32),
            log_probs=np.asarray(result["log_probs"], dtype=np.float32),
            terminated=bool(result["terminated"]),
        )
        length = len(trajectory.actions)
        shapes = (trajectory.observations.shape, trajectory.rewards.shape, trajectory.log_probs.shape)
        if length == 0 or shapes != ((length + 1, OBSERVATION_SIZE), (length,), (length,)):
            raise ValueError(f"a trajectory of {length} actions came with arrays of shapes {shapes}")
        return trajectory


class Arena:
    """A growing set of environments, made once and used for every episode of a worker."""

    def __init__(self) -> None:
        self._environments: list[Any] = []

    def play(self, policy: CartPolicy, seeds: Sequence[int], rng: np.random.Generator) -> list[Trajectory]:
        """Plays one episode per seed, all side by side.

        Args:
            policy: takes every action.
            seeds: start state of each episode.
            rng: draws the actions.

        Returns:
            One trajectory per seed, in their order.
        """
        count = len(seeds)
        while len(self._environments) < count:
            self._environments.append(_environment())
        observations = np.zeros((MAX_STEPS + 1, count, OBSERVATION_SIZE), dtype=np.float32)
        actions = np.zeros((MAX_STEPS, count), dtype=np.uint8)
        logits = np.zeros((MAX_STEPS, count))
        rewards = np.zeros((MAX_STEPS, count), dtype=np.float32)
        # sigmoid(logit) > u is the same as logit > log(u / (1 - u)): no exponential in the loop.
        uniform = rng.random((MAX_STEPS, count))
        thresholds = np.log(uniform) - np.log1p(-uniform)
        lengths = [0] * count
        terminated = [False] * count
        for index, seed in enumerate(seeds):
            observations[0, index], _ = self._environments[index].reset(seed=seed)
        live = list(range(count))
        for step in range(MAX_STEPS):
            logits[step] = policy.logits(observations[step].astype(np.float64))
            actions[step] = logits[step] > thresholds[step]
            taken = actions[step].tolist()
            still: list[int] = []
            for index in live:
                observation, reward, fell, cut, _ = self._environments[index].step(taken[index])
                observations[step + 1, index] = observation
                rewards[step, index] = reward
                if fell or cut:
                    lengths[index], terminated[index] = step + 1, bool(fell)
                else:
                    still.append(index)
            live = still
            if not live:
                break
        log_probs = log_probabilities(logits, actions.astype(np.float64)).astype(np.float32)
        return [
            Trajectory(
                observations=observations[: length + 1, index].copy(),
                actions=actions[:length, index].copy(),
                rewards=rewards[:length, index].copy(),
                log_probs=log_probs[:length, index].copy(),
                terminated=terminated[index],
            )
            for index, length in enumerate(lengths)
        ]

    def close(self) -> None:
        """Closes the environments."""
        for environment in self._environments:
            environment.close()
        self._environments.clear()


def _environment() -> Any:
    # Imported here: the trainer reads trajectories without paying for Gymnasium.
    import gymnasium

    return gymnasium.make(ENVIRONMENT, disable_env_checker=True)  # pyright: ignore[reportUnknownMemberType]
