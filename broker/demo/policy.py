"""The policy that the workers run: a network whose output is the logit of pushing the cart to the right.

Its weights travel as the blob of `Trainer.advance`. The version stands in the blob, so that a worker can check that it
generates with the weights of the very version that its attempt is stamped with.
"""

from __future__ import annotations

import struct
from typing import Final

import numpy as np
from numpy.random import default_rng

from broker.demo.network import OBSERVATION_SCALE, Array, Network, initial_parameters, parameter_count

HIDDEN: Final = 32

#: Magic word and version, ahead of the weights as little-endian 32-bit floats.
_HEADER: Final = struct.Struct("<4sq")
_MAGIC: Final = b"cart"


class WeightsMismatch(Exception):
    """The weights that came with an attempt are not those of its version."""


def log_probabilities(logits: Array, actions: Array) -> Array:
    """Log-probability of each action (0 left, 1 right) under the logit of going right; shape of `logits`."""
    return -np.logaddexp(0.0, np.where(actions > 0, -logits, logits))


class CartPolicy:
    """A stochastic policy: P(right) = sigmoid(network(observation))."""

    def __init__(self, parameters: Array) -> None:
        self.network = Network(parameters)

    @classmethod
    def initial(cls, seed: int) -> CartPolicy:
        """The policy of version 0, the same for everybody who knows the seed."""
        return cls(rounded(initial_parameters(HIDDEN, default_rng([seed, 0]), output_scale=0.01)))

    @property
    def parameters(self) -> Array:
        """The flat vector of weights, shared with the network."""
        return self.network.parameters

    def logits(self, observations: Array) -> Array:
        """Logit of pushing right for raw observations of shape (n, 4); shape (n,)."""
        return self.network.forward(observations * OBSERVATION_SCALE)


def rounded(parameters: Array) -> Array:
    """The parameters as a worker sees them after they travelled as 32-bit floats."""
    return parameters.astype(np.float32).astype(np.float64)


def pack_weights(version: int, policy: CartPolicy) -> bytes:
    """The blob of a version: under a kilobyte."""
    return _HEADER.pack(_MAGIC, version) + policy.parameters.astype("<f4").tobytes()


def unpack_weights(blob: bytes, version: int) -> CartPolicy:
    """The policy in a blob.

    Raises:
        WeightsMismatch: the blob holds something else, or the weights of another version than `version`.
    """
    size = _HEADER.size + 4 * parameter_count(HIDDEN)
    if len(blob) != size or blob[:4] != _MAGIC:
        raise WeightsMismatch(f"a blob of {len(blob)} bytes is not the demo's weights ({size} bytes)")
    _, found = _HEADER.unpack_from(blob)
    if found != version:
        raise WeightsMismatch(f"the blob holds the weights of version {found}, the attempt is of version {version}")
    return CartPolicy(np.frombuffer(blob, "<f4", offset=_HEADER.size).astype(np.float64))
