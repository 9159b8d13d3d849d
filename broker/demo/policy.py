"""The policy, a small tanh network whose output is the logit of pushing the cart to the right, and its blob.

The blob of `Trainer.advance` has the weights and all other state that the trainer needs to go on. So the broker's
checkpoint has them too. A model of a real size is saved beside that file, and the blob says where.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from broker.errors import CodecError
from broker.values.codec import decode

Array = NDArray[np.float64]

#: Inputs: position, velocity, angle, angular velocity; these scales bring them near 1.
INPUTS: Final = 4
SCALES: Final = np.array([1.0, 1.0, 5.0, 1.0])

HIDDEN: Final = 32

#: The ends of the parts w1, b1, w2 in the flat vector of parameters; the last number is b2.
_EDGES: Final = (INPUTS * HIDDEN, (INPUTS + 1) * HIDDEN, (INPUTS + 2) * HIDDEN)


class WeightsMismatch(Exception):
    """The weights that came with an attempt are not those of its version."""


class Policy:
    """P(right) = sigmoid(logit), logit = tanh((observation * SCALES) @ w1 + b1) @ w2 + b2.

    Args:
        parameters: one flat vector, not copied: a change in place changes the policy.
    """

    def __init__(self, parameters: Array) -> None:
        self.parameters = parameters
        w1, self._b1, self._w2, b2 = np.split(parameters, _EDGES)
        if b2.shape != (1,):
            raise ValueError(f"{len(parameters)} parameters do not make a policy, {_EDGES[-1] + 1} do")
        self._w1 = w1.reshape(INPUTS, HIDDEN)

    @classmethod
    def initial(cls, seed: int) -> Policy:
        """The policy of version 0, close to uniform; the same seed gives the same policy."""
        rng = np.random.default_rng([seed, 0])
        w1 = rng.normal(size=INPUTS * HIDDEN) / np.sqrt(INPUTS)
        w2 = rng.normal(size=HIDDEN) * 0.01 / np.sqrt(HIDDEN)
        return cls(np.concatenate([w1, np.zeros(HIDDEN), w2, np.zeros(1)]))

    def logits(self, observations: NDArray[Any]) -> Array:
        """Logits of pushing right, shape (...), for observations of shape (..., 4)."""
        return self._activations(observations) @ self._w2 + self.parameters[-1]

    def gradient(self, observations: NDArray[Any], by_logit: Array) -> Array:
        """Gradient of a loss by the parameters.

        Args:
            observations: shape (n, 4).
            by_logit: gradient of the loss by the logit of each, shape (n,).
        """
        activations = self._activations(observations)
        before_tanh = (by_logit[:, None] * self._w2) * (1.0 - activations * activations)
        w1 = (observations * SCALES).T @ before_tanh
        return np.concatenate([w1.ravel(), before_tanh.sum(axis=0), by_logit @ activations, [by_logit.sum()]])

    def _activations(self, observations: NDArray[Any]) -> Array:
        return np.tanh((observations * SCALES) @ self._w1 + self._b1)


def log_probabilities(logits: Array, actions: NDArray[Any]) -> Array:
    """Log-probability of each action (0 left, 1 right) under the logit of going right; shape of `logits`."""
    return -np.logaddexp(0.0, np.where(actions > 0, -logits, logits))


def unpack(blob: bytes | None, version: int) -> Mapping[str, Any]:
    """Reads the state that `Learner.pack` put into a version's blob; the parameters are its `policy`.

    Raises:
        WeightsMismatch: the blob was not made by `pack`, or is of another version than `version`.
    """
    try:
        weights = decode(blob or b"")
        found = weights["version"]
    except (CodecError, LookupError, TypeError) as error:
        raise WeightsMismatch(f"the blob of version {version} does not hold the demo's weights") from error
    if found != version:
        raise WeightsMismatch(f"the blob of version {version} holds the weights of version {found}")
    return weights
