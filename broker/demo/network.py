"""A small tanh network with one output, its gradient, and Adam: all the deep learning that CartPole needs."""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

#: Values of one CartPole observation: position, velocity, angle, angular velocity.
OBSERVATION_SIZE: Final = 4

#: Scales that bring the four values near 1; the physics gives positions of metres and angles of a tenth of a radian.
OBSERVATION_SCALE: Final = np.array([1.0, 1.0, 5.0, 1.0])


def parameter_count(hidden: int) -> int:
    """Number of parameters of a network with `hidden` tanh units."""
    return OBSERVATION_SIZE * hidden + hidden + hidden + 1


def initial_parameters(hidden: int, rng: np.random.Generator, output_scale: float) -> Array:
    """Parameters before training, as one flat vector.

    Args:
        hidden: tanh units.
        rng: source of the first layer's weights.
        output_scale: standard deviation of the output; near 0 a policy starts close to uniform.
    """
    parameters = np.zeros(parameter_count(hidden))
    first = OBSERVATION_SIZE * hidden
    parameters[:first] = rng.normal(size=first) / np.sqrt(OBSERVATION_SIZE)
    parameters[first + hidden : first + 2 * hidden] = rng.normal(size=hidden) * output_scale / np.sqrt(hidden)
    return parameters


class Network:
    """`output = tanh(observation @ w1 + b1) @ w2 + b2`, a view on one flat vector of parameters.

    The vector is shared, not copied: an optimiser that changes it in place changes the network.
    """

    def __init__(self, parameters: Array) -> None:
        hidden = (len(parameters) - 1) // (OBSERVATION_SIZE + 2)
        if parameter_count(hidden) != len(parameters):
            raise ValueError(f"{len(parameters)} parameters do not make a network of {OBSERVATION_SIZE} inputs")
        first = OBSERVATION_SIZE * hidden
        self.parameters = parameters
        self._w1 = parameters[:first].reshape(OBSERVATION_SIZE, hidden)
        self._b1 = parameters[first : first + hidden]
        self._w2 = parameters[first + hidden : first + 2 * hidden]
        self._b2 = parameters[first + 2 * hidden :]
        self._first = first
        self._hidden = hidden

    def forward(self, observations: Array) -> Array:
        """Outputs, shape (n,), for scaled observations of shape (n, 4)."""
        return np.tanh(observations @ self._w1 + self._b1) @ self._w2 + self._b2

    def forward_with_gradient(self, observations: Array) -> tuple[Array, Array]:
        """Outputs and the activations that `gradient` needs."""
        activations = np.tanh(observations @ self._w1 + self._b1)
        return activations @ self._w2 + self._b2, activations

    def gradient(self, observations: Array, activations: Array, output_gradient: Array) -> Array:
        """Gradient of a loss by the parameters.

        Args:
            observations: shape (n, 4), as given to `forward_with_gradient`.
            activations: shape (n, hidden), as it returned them.
            output_gradient: the loss by each output, shape (n,).

        Returns:
            A flat vector like `parameters`.
        """
        first, hidden = self._first, self._hidden
        flat = np.empty_like(self.parameters)
        before_tanh = (output_gradient[:, None] * self._w2) * (1.0 - activations * activations)
        flat[:first] = (observations.T @ before_tanh).ravel()
        flat[first : first + hidden] = before_tanh.sum(axis=0)
        flat[first + hidden : first + 2 * hidden] = output_gradient @ activations
        flat[first + 2 * hidden :] = output_gradient.sum()
        return flat


class Adam:
    """Adam (Kingma and Ba, 2015) on one flat vector, with the gradient's norm clipped."""

    def __init__(self, size: int, learning_rate: float, max_norm: float = 0.5) -> None:
        self.learning_rate = learning_rate
        self.max_norm = max_norm
        self.mean: Array = np.zeros(size)
        self.square: Array = np.zeros(size)
        self.count = 0

    def update(self, parameters: Array, gradient: Array) -> None:
        """One step downhill; changes `parameters` in place."""
        norm = float(np.sqrt(gradient @ gradient))
        if norm > self.max_norm:
            gradient = gradient * (self.max_norm / norm)
        self.count += 1
        self.mean += 0.1 * (gradient - self.mean)
        self.square += 0.001 * (gradient * gradient - self.square)
        mean = self.mean / (1.0 - 0.9**self.count)
        square = self.square / (1.0 - 0.999**self.count)
        parameters -= self.learning_rate * mean / (np.sqrt(square) + 1e-8)
