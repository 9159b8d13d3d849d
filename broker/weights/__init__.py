"""Weights of each version: the trainer publishes them, and workers fetch them, from a shared folder or by HTTP.

The blob of a version says where its weights are and what they contain. So the server names the weights in the call that
makes a version the current one, and a publication that no version names is never loaded.
"""

from broker.weights.fetching import fetched
from broker.weights.publisher import Publisher

__all__ = ["Publisher", "fetched"]
